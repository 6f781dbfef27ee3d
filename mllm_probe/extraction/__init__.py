"""Samples -> activations in the store. Knows the Extractable protocol, no model class and no label."""
