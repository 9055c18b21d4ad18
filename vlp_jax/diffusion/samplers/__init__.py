"""One sampler per file, found by the file's name (diffusion/how.py)."""
