"""Results in words and in tables, for page, paper and terminal."""
