"""Digests of files, computed once and remembered, and how far the memory is trusted. Knows no format.

    {path: "size|mtime|ctime|inode|sample DIGEST SEAL"}      what a file was when it was hashed
    {"DIGEST|what": "value SEAL"}                            what was computed from a content

A replaced file may have the size, the times and the inode of the one before (images of containers, archives unpacked
with fixed times), so by default stretches of each file are read as well. Every entry is sealed: one that changed on
the disk is forgotten, and what it said is computed again.
"""

import errno
import hashlib
import json
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mllm_probe.errors import ConfigError, choices
from mllm_probe.files.store_paths import replacing

TRUSTS = STAT, SAMPLE, CONTENT = ("stat", "sample", "content")
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
PASSED = "passed"  # of a check that has nothing to say
STRETCHES, STRETCH = 256, 4096  # read of a file with cache.trust=sample: 1 MiB; smaller files whole


def file_digest(path: Path) -> str:
    """32 hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:32]


def file_sample(path: Path) -> str:
    """A digest of stretches spread evenly over a file, its beginning and its end among them."""
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as handle:
        spare = path.stat().st_size - STRETCHES * STRETCH
        for number in range(STRETCHES) if spare > 0 else ():
            handle.seek(number * STRETCH + spare * number // (STRETCHES - 1))
            found.update(handle.read(STRETCH))
        found.update(handle.read())
    return found.hexdigest()[:16]


def _together(content: str, said: str) -> str:
    return content if said == PASSED else hashlib.sha256(f"{content} {said}".encode()).hexdigest()[:32]


class Digests:
    """The one writer of the memo file; `save` keeps what was learnt.

    `trust`: the memo is believed of a file whose size, times and inode are those it had (stat), whose stretches are,
    too (sample), or never (content). `tell` is told once where it cannot be written: that costs time, and nothing else.
    """

    def __init__(self, memo: Path, trust: str = SAMPLE, tell: Callable[[str], None] = lambda _: None) -> None:
        self._memo, self._trust, self._tell = memo, trust, tell
        self._known: dict[str, str] = _read(memo) if memo.exists() else {}
        self._learnt: dict[str, str] = {}
        self._hashed: dict[str, tuple[str, str]] = {}  # {path: its stat and digest}, read whole by this process

    def of(self, path: Path, check: Callable[[Path], str | None] | None = None, *, checked: bool = False) -> str:
        """The file's digest. `check` runs once per content and may raise; what it says becomes part of the digest.
        `checked` files are checked where they are read, so no sample of them is."""
        if check is None:
            return self._digest(path, checked)
        with suppress(OSError):  # a file that cannot be read is for the check to name
            found = self._digest(path, checked)
            if (said := self._known.get(f"{found}|{check.__name__}")) is not None:
                return _together(found, said)
        said = check(path) or PASSED
        found = self._digest(path, checked)
        self._learn(f"{found}|{check.__name__}", said)
        return _together(found, said)

    def remembered(self, path: Path, what: str, compute: Callable[[Path], str], *, checked: bool = False) -> str:
        """A short string that is computed from a content once; `what` tells it from others about the same."""
        if (known := self._known.get(f"{self._digest(path, checked)}|{what}")) is not None:
            return known
        value = compute(path)
        self._learn(f"{self._whole(path)}|{what}", value)
        return value

    def recalled(self, name: str) -> str | None:
        """What was kept under a name, which must hold a digest of all it was computed from; nothing where contents are
        read anew each time."""
        return None if self._trust == CONTENT else self._known.get(name)

    def keep(self, name: str, value: str) -> None:
        """For `recalled`, of this process and of those to come."""
        self._learn(name, value)
        self.save()

    def afresh(self, path: Path) -> str:
        """Hash the file whatever the memo says, and put a wrong entry right: a disk that rots changes no time."""
        self._hashed.pop(_name(path), None)
        return self._whole(path)

    def save(self) -> None:
        """Keep what was learnt, and learn what other processes have kept meanwhile."""
        if self._learnt:
            self._known = {**_kept(self._memo), **self._learnt}
            try:
                self._write()
            except OSError as error:
                if error.errno not in READ_ONLY:
                    raise
                self._tell(
                    f"{self._memo} cannot be written ({error.strerror}): new digests are computed again each time"
                )
                self._tell = lambda _: None
        self._learnt = {}

    def _write(self) -> None:
        with replacing(self._memo) as part:
            part.write_text(json.dumps({key: _sealed(key, value) for key, value in self._known.items()}, indent=0))

    def _digest(self, path: Path, checked: bool) -> str:
        if self._trust == CONTENT:
            return self._whole(path)
        seen, _, digest = self._known.get(_name(path), "").rpartition(" ")
        stat, _, sample = seen.rpartition("|")
        if stat == _stat(path) and (checked or self._trust == STAT or sample == file_sample(path)):
            return digest
        return self.afresh(path)

    def _whole(self, path: Path) -> str:
        """Read it whole, once in this process."""
        name, stat = _name(path), _stat(path)
        if self._hashed.get(name, ("", ""))[0] != stat:
            self._hashed[name] = stat, file_digest(path)
            self._learn(name, f"{stat}|{file_sample(path)} {self._hashed[name][1]}")
        return self._hashed[name][1]

    def _learn(self, key: str, value: str) -> None:
        if self._known.get(key) != value:
            self._known[key] = self._learnt[key] = value


def _name(path: Path) -> str:
    return str(path.resolve())


def _stat(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"


def _sealed(key: str, value: str) -> str:
    return f"{value} {zlib.crc32(f'{key} {value}'.encode(errors='surrogatepass')):08x}"


def _read(memo: Path) -> dict[str, str]:
    """The entries whose seals hold. Raises ValueError where the file holds no entries at all."""
    try:
        found = json.loads(memo.read_text())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("it holds no entries")
    whole = {key: value for key, value in found.items() if isinstance(value, str)}
    bare = {key: value.rpartition(" ")[0] for key, value in whole.items()}
    return {key: value for key, value in bare.items() if _sealed(key, value) == whole[key]}


def _kept(memo: Path) -> dict[str, str]:
    """Nothing where another process damaged it; whoever opens it next starts it anew."""
    try:
        return _read(memo)
    except (OSError, ValueError):
        return {}


def open_digests(memo: Path, trust: str = SAMPLE, tell: Callable[[str], None] = lambda _: None) -> Digests:
    """A damaged memo costs time, not correctness: it is started anew. Raises ConfigError for an unknown trust."""
    if trust not in TRUSTS:
        raise ConfigError(f"cache.trust={trust} is unknown; {choices(trust, TRUSTS)}")
    try:
        return Digests(memo, trust, tell)
    except ValueError:
        memo.replace(memo.with_suffix(".damaged"))
        return Digests(memo, trust, tell)
