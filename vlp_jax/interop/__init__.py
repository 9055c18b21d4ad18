"""Released checkpoints in and out: file readers that run no code, name maps both ways, the folder format."""
