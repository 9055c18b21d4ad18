"""What a pod's own compiler says of a training step, asked from a host without accelerators."""
