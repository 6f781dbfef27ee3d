"""Annotations -> samples and decisions, one file per task."""
