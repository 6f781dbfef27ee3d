"""Trials -> scores and what may be said of them."""
