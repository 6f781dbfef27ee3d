"""Finished runs side by side: found, checked for equal data, ranked."""
