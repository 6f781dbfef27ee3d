"""inspect.html: the same as on the terminal, with pictures. `fragment` can stand in any page that has `STYLE`.

Nothing is fetched: pictures are in the page, and a policy in its head forbids the rest. Whatever comes from a data file
is escaped.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

from mllm_probe.data.pictures import open_rgb
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

SIDE = 320  # pixels, at most
STYLE = """
.inspect { --ink: #1a1a1a; --dim: #666; --line: #ddd; --card: #fff; --chip: #f3f3f3; --alarm: #b00020;
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) { .inspect { --ink: #e8e8e8; --dim: #a0a0a0; --line: #383838; --card: #1c1c1e;
  --chip: #2a2a2d; --alarm: #ff8a8a; } }
.inspect article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; margin: 0 0 1.5rem;
  padding: 1rem; }
.inspect h2 { font-size: .8rem; font-weight: 600; color: var(--dim); margin: 0 0 .75rem; }
.inspect .top { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; align-items: flex-start; }
.inspect img { display: block; width: 224px; max-width: 100%; border-radius: 4px; margin-bottom: .5rem; }
.inspect dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; flex: 1 1 18rem; }
.inspect dt { color: var(--dim); }
.inspect dd { margin: 0; white-space: pre-wrap; }
.inspect .warning { color: var(--alarm); font-weight: 600; }
.inspect .tokens { display: flex; flex-wrap: wrap; margin: 1.25rem 0 1rem; row-gap: .5rem;
  font: 13px/1.5 ui-monospace, monospace; }
.inspect .token { display: inline-flex; flex-direction: column; max-width: 100%; }
.inspect .token b { font-weight: 400; background: var(--chip); border-radius: 3px; margin: 0 1px 2px; padding: 0 3px;
  min-width: .6em; color: var(--dim); }
.inspect .token.read b { color: var(--ink); }
.inspect .token.special b { font-style: italic; }
.inspect .token i { height: 14px; margin-bottom: 2px; padding-left: 4px; background: var(--of); color: var(--on);
  font: 700 10px/14px system-ui, sans-serif; }
.inspect .token i.start { margin-left: 1px; border-radius: 3px 0 0 3px; }
.inspect .token i.more { color: color-mix(in srgb, var(--on) 45%, var(--of)); }
.inspect table { border-collapse: collapse; font-size: .9rem; }
.inspect td { padding: .1rem .75rem .1rem 0; vertical-align: top; }
.inspect td i { display: inline-block; min-width: 1.2em; padding: 0 .3em; border-radius: 3px; text-align: center;
  background: var(--of); color: var(--on); font: 700 11px/16px system-ui, sans-serif; }
.inspect small { color: var(--dim); font-size: .85rem; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
body {{ margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem; background: #fafafa; }}
h1 {{ font: 600 1.3rem/1.3 system-ui, sans-serif; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #111; color: #e8e8e8; }} }}
{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def page(title: str, shown: Sequence[Inspection], folder: Path) -> str:
    """A page of its own; the paths of pictures begin at `folder`."""
    return PAGE.format(title=escape(title), style=STYLE, body=fragment(shown, folder))


def fragment(shown: Sequence[Inspection], folder: Path) -> str:
    """A section to stand in a page."""
    articles = (_article(f"{i} of {len(shown)}", one, folder) for i, one in enumerate(shown, 1))
    return "\n".join(['<section class="inspect">', *articles, "</section>"])


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
