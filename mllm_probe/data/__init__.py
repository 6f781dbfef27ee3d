"""Pictures and their annotations."""
