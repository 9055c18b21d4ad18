"""Pictures changed at random or on purpose: arrays in, arrays out, no networks."""
