"""Layers shared by all networks; with models/ and methods/ the only place that knows flax."""
