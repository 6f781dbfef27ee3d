"""Activations on disk: their identity, their place and their contents."""
