"""Recipes of latent diffusion's autoencoders."""
