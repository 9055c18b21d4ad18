"""Tables of published sizes, nothing else."""
