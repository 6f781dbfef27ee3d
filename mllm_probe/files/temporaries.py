"""Files that are being written: how they are called, so that what a killed process left is known for it."""

import os
import platform
import re
from pathlib import Path

TEMPORARY = re.compile(r"\.[\w.]+\.(json|safetensors)\..*\.\d+")  # what `replacing` leaves where it was killed


def is_temporary(path: Path) -> bool:
    return TEMPORARY.fullmatch(path.name) is not None


def pid_namespace() -> str:
    """Containers of one host may number their processes apart."""
    here = Path("/proc/self/ns/pid")
    return here.readlink().name.strip("pid:[]") if here.exists() else ""


def runs_here(pid: int) -> bool:
    """Whether a process of this host and namespace is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def temporary(path: Path) -> Path:
    """A neighbour that only this process writes to."""
    return path.with_name(f".{path.name}.{platform.node()}.{pid_namespace()}.{os.getpid()}")
