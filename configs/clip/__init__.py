"""Dual-encoder recipes."""
