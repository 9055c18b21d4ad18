"""Latent diffusion recipes."""
