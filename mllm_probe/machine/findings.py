"""What was found of one thing that a run needs of this machine."""

from dataclasses import dataclass

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True)
class Finding:
    """One row: what was looked at, what was found, how good that is, and the command or setting that fixes it.

    A problem keeps every run from working; a note is worth knowing and keeps none.
    """

    what: str
    found: str
    mark: str = OK
    remedy: str = ""
