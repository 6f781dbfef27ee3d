"""Where in the picture something is: cells of it, and what masks of objects cover of them. Knows no model."""
