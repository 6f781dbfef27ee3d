"""How much a command prints besides its results: an environment variable, which its child processes inherit."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mllm_probe.errors import ConfigError, choices

VARIABLE = "MLLM_PROBE_VERBOSITY"
LEVELS = QUIET, NORMAL, VERBOSE = "quiet", "normal", "verbose"


def verbosity() -> str:
    """The level that is set. Raises ConfigError for an unknown one."""
    level = os.environ.get(VARIABLE) or NORMAL
    if level not in LEVELS:
        raise ConfigError(f"{VARIABLE}={level} is unknown; {choices(level, LEVELS)}")
    return level


def name_folder(folder: Path) -> None:
    """Where quiet was asked for, the folder of the results on a line of its own on stdout, for a script to take."""
    if verbosity() == QUIET:
        print(folder, flush=True)


@contextmanager
def speaking(level: str) -> Iterator[None]:
    """That level, in this process and in those started meanwhile."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = level
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
