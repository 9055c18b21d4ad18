"""Training methods: one file per method under one contract (base.py)."""
