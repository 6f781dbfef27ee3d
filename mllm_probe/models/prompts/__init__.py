"""Samples -> what a model reads: prompts, pictures, positions, batches."""
