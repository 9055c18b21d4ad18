"""Writing texts token by token: loops over a step that they are given; they know no model."""
