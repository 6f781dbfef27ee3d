"""Pages and viewers of what is asked of single picture tokens."""
