"""Folders of a data set that are written whole or not at all. Knows nothing of what is in them."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
