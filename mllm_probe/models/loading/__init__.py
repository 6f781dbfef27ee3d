"""A checkpoint on this disk: whether all its parts are there and sound, and how its weights are read."""
