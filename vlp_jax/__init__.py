"""vlp_jax: vision-language pre-training in pure JAX, from a laptop to a TPU pod."""

__version__ = "0.1.0"
