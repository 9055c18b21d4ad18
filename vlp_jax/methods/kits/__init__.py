"""What families of methods share; only methods import it."""
