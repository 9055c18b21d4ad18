"""Optimisers and schedules from config."""
