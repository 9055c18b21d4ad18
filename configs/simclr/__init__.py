"""Recipes of SimCLR."""
