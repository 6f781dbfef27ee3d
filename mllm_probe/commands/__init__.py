"""One file for each command, each readable from top to bottom."""
