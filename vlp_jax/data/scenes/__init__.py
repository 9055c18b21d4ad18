"""Composed scenes of emoji: what is in them and where, how they look, what is said and asked."""
