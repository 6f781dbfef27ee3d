"""Picture files: finding one under its root, checking that it decodes, and opening it. Knows no annotations."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from mllm_probe.errors import DataError
from mllm_probe.paths import replacing


def inside(root: Path, name: str) -> Path:
    """`root / name`, refused where a name from a data file would leave the root."""
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"picture name {name!r} leads outside {root}; names in annotation files must stay below it")
    return path


def check_decodes(path: Path) -> None:
    """Decode the whole picture, so that a truncated file is found before a model is loaded."""
    try:
        with Image.open(path) as image:
            image.load()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"picture {path} cannot be decoded ({error})") from error


GREY = (127, 127, 127)


def write_blank(path: Path, folder: Path) -> Path:
    """An empty grey picture of the same size as the one at `path`, one file a size."""
    with Image.open(path) as image:
        size = image.size
    made = folder / f"{size[0]}x{size[1]}.png"
    if not made.exists():
        with replacing(made) as part:
            Image.new("RGB", size, GREY).save(part, format="PNG")
    return made


def open_rgb(path: Path) -> Image.Image:
    """The picture as RGB, whatever its file holds (greyscale, palette, alpha)."""
    with Image.open(path) as image:
        return image.convert("RGB")
