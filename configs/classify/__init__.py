"""Recipes of methods/classify.py."""
