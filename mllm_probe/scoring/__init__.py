"""Trials -> scores, tests and verdicts."""
