"""Rows of a key, labels and splits -> trials: what each fitted probe says of every decision."""
