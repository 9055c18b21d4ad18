"""Diffusion: schedules, targets, guidance and samplers; functions over a network that they are
given; they know no model."""
