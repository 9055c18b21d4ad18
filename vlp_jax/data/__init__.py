"""Data: sources, order, decoding and the input pipeline. Imports nothing heavy, so commands start
at once."""
