"""The vision side: which of its layers, in which combination, and which representation."""
