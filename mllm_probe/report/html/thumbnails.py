"""Pictures of examples, found again and put into a page. Says of each that is gone or was changed that it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mllm_probe.config.report import FULL, NONE
from mllm_probe.errors import DataError
from mllm_probe.files.digests import file_digest
from mllm_probe.report.html.inspect_page import SIDE, data_uri
from mllm_probe.results.examples import Seen


@dataclass(frozen=True)
class Framed:
    """A picture as an address, or why there is none. `name` is that of its file."""

    name: str
    uri: str = ""
    gone: str = ""


def framed(seen: Seen, folders: Sequence[Path], pictures: str) -> Framed:
    """The picture in the first of `folders` that has it; `pictures` as in ReportSettings."""
    places = [folder / seen.path for folder in folders] or [Path(seen.path)]
    path = next((place for place in places if place.is_file()), places[0])
    if pictures == NONE:
        return Framed(path.name, gone="left out (report.pictures=none)")
    try:
        if file_digest(path) != seen.digest:
            return Framed(path.name, gone="has changed since the run")
        return Framed(path.name, data_uri(path, None if pictures == FULL else SIDE))
    except (OSError, DataError):
        return Framed(path.name, gone="is gone")
