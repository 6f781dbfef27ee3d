"""Similarity of layers, and the shape of each. Knows arrays only: no key, no cache, no label, no probe."""
