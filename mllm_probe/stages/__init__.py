"""One file per command, each readable from top to bottom."""
