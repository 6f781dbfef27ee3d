"""What files hold, computed once: a memo keyed by path, size, modification time and inode. Knows no format."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from mllm_probe.paths import replacing


def file_digest(path: Path) -> str:
    """32 hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:32]


class Digests:
    """The one writer of the memo file; `save` keeps what was learnt."""

    def __init__(self, memo: Path) -> None:
        self._memo = memo
        self._known: dict[str, str] = json.loads(memo.read_text()) if memo.exists() else {}
        self._changed = False

    def of(self, path: Path, check: Callable[[Path], None] | None = None) -> str:
        """The file's digest. `check` runs once per content and may raise."""

        def checked(path: Path) -> str:
            if check:
                check(path)
            return file_digest(path)

        return self.remembered(path, check.__name__ if check else "", checked)

    def remembered(self, path: Path, what: str, compute: Callable[[Path], str]) -> str:
        """A short string that is computed from the file once; `what` tells it from others about the same file."""
        key = _key(path, what)
        if key not in self._known:
            self._known[key] = compute(path)
            self._changed = True
        return self._known[key]

    def afresh(self, path: Path) -> str:
        """Hash the file whatever the memo says, and put a wrong entry right.

        A disk that rots changes neither size nor time, so the memo would vouch for such a file for ever.
        """
        found, key = file_digest(path), _key(path)
        if self._known.get(key, found) != found:
            self._known[key] = found
            self._changed = True
        return found

    def save(self) -> None:
        """Keep what was learnt, and learn what other processes have kept meanwhile."""
        if self._changed:
            self._known = {**_read(self._memo), **self._known}
            with replacing(self._memo) as part:
                part.write_text(json.dumps(self._known, indent=0))
        self._changed = False


def _read(memo: Path) -> dict[str, str]:
    """Nothing where another process damaged it; whoever opens it next says so."""
    try:
        return json.loads(memo.read_text())
    except (OSError, ValueError):
        return {}


def _key(path: Path, what: str = "") -> str:
    stat = path.stat()
    return f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}|{what}"


def open_digests(memo: Path, kind: type[Digests] = Digests) -> Digests:
    """A damaged memo costs time, not correctness: it is started anew."""
    try:
        return kind(memo)
    except (json.JSONDecodeError, UnicodeDecodeError):
        memo.replace(memo.with_suffix(".damaged"))
        return kind(memo)
