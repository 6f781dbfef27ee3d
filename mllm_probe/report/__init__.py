"""Scores -> a file, a table, a figure, a progress bar."""
