"""What lies where a file should be: nothing, a folder, a link that leads nowhere, or a pipe, which is never opened, for
it would keep its reader waiting."""

import stat
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
