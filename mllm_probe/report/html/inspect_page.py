"""inspect.html: the same as on the terminal, with pictures; and the pictures of examples for the page of a run.

Nothing is fetched: pictures are in the page, and a policy in its head forbids the rest. Whatever comes from a data file
is escaped.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

from mllm_probe.config.report import FULL, NONE
from mllm_probe.data.pictures import open_rgb
from mllm_probe.errors import DataError
from mllm_probe.files.digests import file_digest
from mllm_probe.report.html.prompt_tokens import (
    HINT,
    PLAIN,
    Inspection,
    Piece,
    Shown,
    Spot,
    colours,
    facts,
    lanes,
    visible,
)
from mllm_probe.report.html.skeleton import filled
from mllm_probe.results.examples import Seen

SIDE = 320  # pixels, at most


def page(title: str, shown: Sequence[Inspection], folder: Path) -> str:
    """The page; the paths of pictures begin at `folder`."""
    from markupsafe import Markup

    articles = (_article(f"{i} of {len(shown)}", one, folder) for i, one in enumerate(shown, 1))
    return filled("inspect.html", "inspect.css", live=False, title=title, articles=Markup("\n".join(articles)))


def _article(name: str, one: Inspection, folder: Path) -> str:
    said = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts(one))
    pictures = "".join(_picture(picture, folder) for picture in one.pictures)
    warning = f'<p class="warning">{escape(visible(one.warning, PLAIN))}</p>' if one.warning else ""
    style = {sign: f' style="--on:{ink};--of:{colour}"' for sign, (ink, colour) in colours(one.spots).items()}
    return "\n".join(
        [
            f'<article><h2>{name}</h2><div class="top"><div>{pictures}</div><dl>{said}</dl></div>{warning}',
            f'<div class="tokens">{"".join(_tokens(one, style))}</div>',
            f"<table>{''.join(_legend(one.spots, style))}</table>",
            f"<small>{one.tokens} tokens, {HINT}; point at a token for its number and id</small></article>",
        ]
    )


def _picture(picture: Shown, folder: Path) -> str:
    alt = escape(visible(Path(picture.path).name, PLAIN))
    return f'<img src="{data_uri(folder / picture.path)}" alt="{alt}">'


def data_uri(path: Path, side: int | None = SIDE) -> str:
    """The picture as the model's processor gets it, at most `side` pixels wide and high (None: as it is), as PNG or
    JPEG, whichever is shorter."""
    image = open_rgb(path)
    if side is not None:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    found = []
    for kind in ("png", "jpeg"):
        buffer = BytesIO()
        image.save(buffer, format=kind, quality=85)
        found.append((len(buffer.getvalue()), kind, buffer.getvalue()))
    _, kind, content = min(found)
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _tokens(one: Inspection, style: Mapping[str, str]) -> Iterator[str]:
    title = {spot.sign: spot.title for spot in one.spots}
    rows = [[spot.sign for spot in lane] for lane in lanes(one.spots)]
    for piece in one.pieces:
        kinds = "token" + " read" * bool(piece.signs) + " special" * piece.special
        last = piece.index + piece.count - 1
        number = f"token {piece.index}" if piece.count == 1 else f"tokens {piece.index} to {last}"
        said = "; ".join([f"{number}, id {piece.id}", *(f"{sign} {title[sign]}" for sign in piece.signs)])
        text = escape(visible(piece.text) or "∅") + (f"×{piece.count}" if piece.count > 1 else "")
        bars = "".join(_bar(piece, lane, style) for lane in rows)
        yield f'<span class="{kinds}" title="{escape(visible(said, PLAIN))}"><b>{text}</b>{bars}</span>'


def _bar(piece: Piece, lane: Sequence[str], style: Mapping[str, str]) -> str:
    sign = next((sign for sign in piece.signs if sign in lane), None)
    if sign is None:
        return "<i></i>"
    return f'<i class="{"start" if sign in piece.starts else "more"}"{style[sign]}>{sign}</i>'


def _legend(spots: Sequence[Spot], style: Mapping[str, str]) -> Iterator[str]:
    for spot in spots:
        name = escape(visible(spot.title, PLAIN))
        yield f"<tr><td><i{style[spot.sign]}>{spot.sign}</i></td><td>{name}</td><td>{escape(spot.said)}</td></tr>"


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
