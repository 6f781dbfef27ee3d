"""Where the files of a data set lie: what is in the place of one, and folders that are written whole or not at all.

A place may hold nothing, a folder, a link that leads nowhere, or a pipe, which is never opened, for it would keep its
reader waiting.
"""

import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ELOOP
from pathlib import Path

MISSING = "is missing"
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def lacking(path: Path) -> str:
    """What is wrong with the place, to be said behind its name; "" where a file is. Raises ValueError, OSError for what
    no file can be called."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return f"is a symbolic link to {path.readlink()}, which does not exist" if path.is_symlink() else MISSING
    except OSError as error:
        if error.errno != ELOOP:
            raise
        return "is a symbolic link to itself"
    return "" if kind == stat.S_IFREG else f"is {KINDS.get(kind, 'something else')}, not a file"


@contextmanager
def filled_once(folder: Path) -> Iterator[Path]:
    """Write into a temporary neighbour, then rename it to `folder`: a folder that exists is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield part
        part.chmod(0o755)
        part.rename(folder)
    except OSError:
        if not folder.exists():  # another process may have finished the same folder first
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
