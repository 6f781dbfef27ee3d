"""Training of small parts of a large model: one loop, and what it is given to learn."""
