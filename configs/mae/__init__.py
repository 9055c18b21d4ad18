"""Masked autoencoder recipes."""
