"""One readable file per recipe; `get_config(args)` returns the whole config."""
