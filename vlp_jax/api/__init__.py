"""What a notebook or a command calls: load a model, train, evaluate, convert, repeat a study."""
