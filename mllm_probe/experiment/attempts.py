"""What a run extracted in all its attempts, those that were killed among them, for its summary.

A small file for each, beside the parts of the unfinished sweep, and gone with them.
"""

import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mllm_probe.cache.store import write_json
from mllm_probe.files.store_paths import PartPaths


class Attempts:
    """This attempt at a run, and those before it. Until `begin` nothing is noted: not all that extracts is a run."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._earlier: list[dict[str, Any]] = []
        self._own = {"samples": 0, "forward_passes": 0}
        self._started = time.monotonic()

    def begin(self, paths: PartPaths) -> None:
        self._earlier = [found for path in paths.attempts() if (found := _read(path))]
        self._file, self._started = paths.attempt(secrets.token_hex(8)), time.monotonic()

    def wrote(self, samples: int, passes: int) -> None:
        """A shard is on disk, which held so many samples and took so many forward passes."""
        if self._file is not None:
            self._own = {
                "samples": self._own["samples"] + samples,
                "forward_passes": self._own["forward_passes"] + passes,
            }
            write_json(self._file, {**self._own, "seconds": round(time.monotonic() - self._started, 2)})

    def summed(self, done: Mapping[str, Any]) -> dict[str, Any]:
        """What this attempt has done, as `fill_missing` says it, with what those before it did."""
        if self._file is not None and not done["hit"]:
            write_json(self._file, done)
        both = (*self._earlier, done)
        passes = [one["forward_passes"] for one in both]
        return {
            **{name: value for one in both for name, value in one.items()},
            "samples": sum(one["samples"] for one in both),
            "forward_passes": None if None in passes else sum(passes),
            "seconds": round(sum(one["seconds"] for one in both), 2),
            "hit": done["hit"] and not self._earlier,
        }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
        return {"samples": 0, "forward_passes": 0, "seconds": 0.0, **found}
    except (OSError, ValueError, TypeError):
        return None  # another attempt has just ended, and removed it
