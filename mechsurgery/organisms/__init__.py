"""The built-in model organisms: their world, how they were trained, and their weights."""
