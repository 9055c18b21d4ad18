"""One released family per file, found by its name."""
