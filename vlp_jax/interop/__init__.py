"""Released checkpoints in and out: safe file readers, name maps both ways, the folder format."""
