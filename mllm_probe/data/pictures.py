"""Picture files: finding one under its root, the one way in which each is opened, and what is learnt of it at once.
Knows no annotations.

Whatever a file holds, a model is shown RGB of 8 bits a colour: upright as its EXIF says, deeper greys scaled down by
their bit depth, on white where it is transparent, of several frames the first.
"""

import shutil
import stat
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from errno import ELOOP
from os.path import normpath
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from PIL.Image import Transpose

from mllm_probe.errors import DataError
from mllm_probe.files.digests import Digests
from mllm_probe.files.store_paths import replacing

LINKS = FOLLOW, REFUSE = "follow", "refuse"  # what is done with pictures that are links to files elsewhere
READING = "upright, scaled to 8 bits, on white"  # of pictures that are more than 8-bit colours as they are stored
HASH = f"phash, {READING}"  # what a memory of digests calls it
FLAT = 8  # a picture with fewer grey levels than this has no coefficient but noise
LOOKERS = 2  # threads that look at the pictures of a data set
WHITE = (255, 255, 255)
ORIENTATION = 0x0112  # the EXIF tag
T = TypeVar("T")
R = TypeVar("R")
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
BITS, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF tags, and the value of a grey that runs from white to black
NUMBERS, SIGNED = 339, 2  # the TIFF tag that says of what kind the numbers are, and such as are below 0 too
FEW_BITS = {"L;2": 2, "L;4": 4}  # how Pillow calls greys of a PNG that it widens to 8 bits
SIXTEEN = ("PNG", "PPM")  # whose whole numbers of 32 bits are such of 16 that Pillow widened

warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd tags and large pictures; what cannot be read is refused


GREY = (127, 127, 127)
MISSING = "is missing"
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def inside(root: Path, name: str) -> Path:
    """`root / name`, refused where a name from a data file would leave the root."""
    path = root / name
    if not Path(normpath(path.absolute())).is_relative_to(normpath(root.absolute())):
        raise DataError(f"picture name {name!r} leads outside {root}; names in annotation files must stay below it")
    return path


def named_file(root: Path, name: str, links: str = FOLLOW) -> Path:
    """The file of that name below the root, which may be a link to wherever unless `links` is refuse.

    Raises DataError.
    """
    path = inside(root, name)
    try:
        said = lacking(path)
    except (OSError, ValueError) as error:  # too long, with a NUL: another column's text
        raise DataError(f"{name[:80]!r} is no file name that can be opened; fix the row") from error
    if said:
        raise DataError(f"picture {path} {said}; put the file there")
    if links == REFUSE and not (real := path.resolve()).is_relative_to(root.resolve()):
        raise DataError(f"picture {path} is a link to {real}, outside {root}, and data.links=refuse refuses such files")
    return path


def ahead(items: Iterable[T], make: Callable[[T], R], workers: int) -> Iterator[tuple[T, R]]:
    """(item, make(item)) in the order of the items, at most `workers` + 1 of them made before they are asked for.

    An error of `make` is raised when its item's turn comes. With 0 workers everything happens in the caller's thread.
    """
    if workers == 0:
        yield from ((item, make(item)) for item in items)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="collate")
    waiting: deque[tuple[T, Future[R]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(make, item)))
            if len(waiting) > workers:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def open_rgb(path: Path, upright: bool = True) -> Image.Image:
    """The picture as a model is shown it; `upright` False leaves it as stored, as keypoints and boxes count pixels.

    Raises DataError for what cannot be decoded.
    """
    return _read(path, upright)[0]


def look_at(path: Path, digests: Digests) -> str:
    """The digest of the picture. A content that is new is decoded whole, so that a truncated file is found before a
    model is loaded, and the hash by which look-alikes are found is remembered on the way. Raises DataError."""
    hashes: list[str] = []

    def check_decodes(path: Path) -> str:
        """How it is read: "" where the stored colours are shown as they are."""
        pixels, plain = _read(path, upright=True)
        hashes.append(perceptual_hash(pixels))
        return "" if plain else READING

    found = digests.of(path, check_decodes)
    if hashes:
        digests.remembered(path, HASH, lambda _: hashes[0])
    return found


def hash_of(path: Path, digests: Digests) -> int:
    """The perceptual hash of a picture, computed where `look_at` has not done so."""
    return int(digests.remembered(path, HASH, lambda path: perceptual_hash(open_rgb(path))), 16)


def perceptual_hash(pixels: Image.Image) -> str:
    """16 hexadecimal digits. All flat pictures share one hash: theirs would be rounding errors."""
    import imagehash

    grey = pixels.convert("L")
    return "0" * 16 if np.ptp(np.asarray(grey)) < FLAT else str(imagehash.phash(grey))


def _read(path: Path, upright: bool) -> tuple[Image.Image, bool]:
    """The picture, and whether it is the stored colours as they are."""
    try:
        with Image.open(path) as image:
            _scale_hidden(image)
            image.load()
            turn = UPRIGHT.get(_orientation(image)) if upright else None
            pixels = as_rgb(image)
            plain = turn is None and _is_plain(image)
            return pixels if turn is None else pixels.transpose(turn), plain
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise DataError(f"picture {path} has more than {most} pixels; make it smaller") from error
    except Exception as error:  # Pillow raises anything here
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"picture {path} cannot be decoded ({said}); replace the file") from error


def _scale_hidden(image: Image.Image) -> None:
    """The value of a PNG that stands for nothing, as the file counts, in the 8 bits that Pillow makes of the others;
    what unpacks them is known until it is loaded. Raises ValueError where those 8 bits do not tell it from others."""
    hidden = image.info.get("transparency")
    packed = [tile.args for tile in getattr(image, "tile", ())]
    if hidden is None or image.format != "PNG" or not packed:
        return
    if packed[0] == "RGB;16B":
        raise ValueError("a colour of 16 bits marks transparency, which is not read; save it with an alpha channel")
    if bits := FEW_BITS.get(packed[0], 0):
        image.info["transparency"] = (hidden % 2**bits) * 255 // (2**bits - 1)


def as_rgb(image: Image.Image) -> Image.Image:
    """A decoded picture as RGB, as it is stored. Raises ValueError where nothing says how bright its numbers are."""
    if SIGNED in getattr(image, "tag_v2", {}).get(NUMBERS, ()):
        raise ValueError("it holds signed numbers, so its black is unknown; save it with 8 or 16 bits, unsigned")
    if not _is_deep(image):
        if not image.has_transparency_data:
            return image.convert("RGB")
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, WHITE), over).convert("RGB")
    values = np.asarray(image)
    grey = np.rint(255 * (values / _white(image, values))).astype(np.uint8)
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    if (hidden := image.info.get("transparency")) is not None:
        grey[values == hidden] = WHITE[0]
    return Image.fromarray(grey).convert("RGB")


def _white(image: Image.Image, values: np.ndarray) -> float:
    """The number that is white. Raises ValueError."""
    if image.mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):  # not a number neither
            raise ValueError(
                f"it holds fractions from {values.min():g} to {values.max():g}, and only 0 (black) to 1 (white) are "
                "read; save it with 8 or 16 bits"
            )
        return 1
    if image.mode == "I" and image.format not in SIXTEEN:
        raise ValueError("it holds 32-bit whole numbers, so its white is unknown; save it with 8 or 16 bits")
    depth = getattr(image, "tag_v2", {}).get(BITS, (16,))[0]
    return 2**depth - 1


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("F", "I") or image.mode.startswith("I;16")


def _is_plain(image: Image.Image) -> bool:
    return not _is_deep(image) and not image.has_transparency_data


def _orientation(image: Image.Image) -> int:
    """1 where nothing that can be read says otherwise."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # torn EXIF raises anything, and every viewer shows such a picture as it is stored
        return 1


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of the picture as a model is shown it, in pixels."""
    with Image.open(path) as image:
        if image.format == "TIFF":
            image.load()  # which turns it
        width, height = image.size
        return (height, width) if _orientation(image) > 4 else (width, height)


def write_blank(path: Path, folder: Path) -> Path:
    """An empty grey picture of the same size as the one at `path`, one file a size."""
    width, height = size_of(path)
    made = folder / f"{width}x{height}.png"
    if not made.exists():
        with replacing(made) as part:
            Image.new("RGB", (width, height), GREY).save(part, format="PNG")
    return made


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
