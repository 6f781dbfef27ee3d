"""Figures, as PNG, PDF and SVG."""
