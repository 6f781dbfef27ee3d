"""Rows of a key, labels and splits -> trials: the output of each fitted probe for every decision."""
