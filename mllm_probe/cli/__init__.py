"""The command line: which commands there are, how their jobs start and end, errors as sentences."""

from mllm_probe.cli.entry import main

__all__ = ["main"]
