"""Activations on disk: whose they are, where they lie, what is there."""
