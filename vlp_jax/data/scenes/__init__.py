"""Composed scenes of emoji: what is in them, where, how they look, what is said and asked of them."""
