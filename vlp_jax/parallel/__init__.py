"""Meshes, sharding rules and collectives: the only place that knows devices."""
