"""Draw the four pictures of docs/concepts.md: what a site, a position, a probe and a control are.

    python scripts/draw_concepts.py

Plain SVG on a card of its own, so that it is readable on a light page and on a dark one. Knows no model.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
WIDTH = 760
STYLE = """
  .card { fill: #ffffff; stroke: #d0d7de } text { fill: #1f2328; font: 14px system-ui, sans-serif }
  .box { fill: #f6f8fa; stroke: #8c959f } .vision { fill: #dbeafe; stroke: #2563eb }
  .lm { fill: #fef3c7; stroke: #b45309 } .joint { fill: #dcfce7; stroke: #15803d } .line { stroke: #57606a; fill: none }
  .name { font: 13px ui-monospace, monospace } .soft { fill: #57606a }
  .mark { stroke: #b91c1c; stroke-width: 2.5; fill: none }
  .red { fill: #b91c1c } .other { fill: #fee2e2; stroke: #b91c1c }
  @media (prefers-color-scheme: dark) {
    .card { fill: #0d1117; stroke: #30363d } text { fill: #e6edf3 } .box { fill: #161b22; stroke: #6e7681 }
    .vision { fill: #172554; stroke: #60a5fa } .lm { fill: #3b2a06; stroke: #fbbf24 }
    .joint { fill: #052e16; stroke: #4ade80 } .line { stroke: #8b949e } .soft { fill: #8b949e }
    .mark { stroke: #f87171 } .red { fill: #f87171 } .other { fill: #450a0a; stroke: #f87171 }
  }
"""


class Drawing:
    """Collects shapes; coordinates are pixels from the upper left."""

    def __init__(self, title: str, height: int) -> None:
        self.title, self.height, self.shapes = title, height, list[str]()

    def box(self, x: float, y: float, width: float, height: float, kind: str = "box", text: str = "") -> None:
        self.shapes.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="5"/>')
        if text:
            self.text(x + width / 2, y + height / 2 + 5, text, anchor="middle")

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        self.shapes.append(f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>')

    def path(self, points: Sequence[tuple[float, float]], kind: str = "line", arrow: bool = False) -> None:
        steps = " L".join(f"{x} {y}" for x, y in points)
        end = ' marker-end="url(#arrow)"' if arrow else ""
        self.shapes.append(f'<path class="{kind}" d="M{steps}"{end}/>')

    def bracket(self, x: float, end: float, y: float, name: str) -> None:
        """A line under the tokens from x to end, and the name of what it covers."""
        self.path([(x, y - 5), (x, y), (end, y), (end, y - 5)], "mark")
        self.text(end + 10, y + 4, name, "name red")

    def svg(self) -> str:
        arrow = '<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        head = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" role="img">',
            f"<title>{escape(self.title)}</title><style>{STYLE}</style>",
            f'<defs>{arrow}<path class="line" d="M0 0 L8 4 L0 8"/></marker></defs>',
            f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{self.height - 1}" rx="8"/>',
        ]
        return "\n".join([*head, *self.shapes, "</svg>\n"])


def site() -> Drawing:
    """Towers side by side, the way of the data from left to right."""
    art = Drawing("Sites: places in a model where a state can be read", 330)
    for x, name, blocks, kind in ((60, "vision", 3, "vision"), (440, "lm", 4, "lm")):
        for i in range(blocks + 1):
            y = 258 - i * 46
            art.box(x, y, 120, 30, kind if i else "box", f"block {i}" if i else "embeddings")
            art.text(x + 132, y + 20, f"{name}.{i:02d}", "name red")
            if i:
                art.path([(x + 60, y + 46), (x + 60, y + 31)], arrow=True)
    art.box(270, 166, 110, 30, "joint", "connector")
    art.text(333, 216, "connector", "name red")
    art.path([(120, 120), (120, 96), (325, 96), (325, 165)], arrow=True)
    art.path([(325, 196), (325, 300), (500, 300), (500, 289)], arrow=True)
    art.box(440, 28, 120, 30, "box", "final norm")
    art.path([(500, 74), (500, 59)], arrow=True)
    art.text(572, 48, "lm.04.norm", "name red")
    art.text(120, 310, "picture", "soft", "middle")
    art.text(590, 310, "words", "soft")
    art.path([(585, 305), (520, 305), (520, 289)], arrow=True)
    art.text(640, 94, "what block 4", "soft")
    art.text(640, 112, "returns, before", "soft")
    art.text(640, 130, "any norm", "soft")
    return art


TOKENS = (
    ("USER:", 58, "box"),
    *(("▦", 24, "vision"),) * 6,
    ("This", 44, "lm"),
    ("image", 54, "lm"),
    ("contains:", 76, "lm"),
    ("a", 24, "joint"),
    ("red", 38, "joint"),
    ("ring", 42, "joint"),
    (".", 20, "lm"),
    ("ASSISTANT:", 100, "box"),
)


def position() -> Drawing:
    """One prompt, its tokens in a row, and what each position covers."""
    art = Drawing("Positions: which tokens of a prompt are read", 272)
    edges, x = [], 26.0
    for text, width, kind in TOKENS:
        art.box(x, 44, width, 30, kind, text)
        edges.append((x, x + width))
        x += width + 5
    art.text(26, 30, "a prompt as the model reads it: the image tag has become picture tokens (▦)", "soft")
    covered = (
        ("mean_image", 1, 6, 96),
        ("last_image", 6, 6, 122),
        ("mean_text", 7, 13, 148),
        ("mark:caption", 12, 12, 174),
        ("before:caption", 9, 9, 200),
        ("last", 14, 14, 226),
    )
    for name, first, last, y in covered:
        art.bracket(edges[first][0], edges[last][1], y, name)
    art.text(26, 256, "the caption is marked; its last sub-token and the token before it are read", "soft")
    return art


def probe() -> Drawing:
    """From the states of one site and position to a score."""
    art = Drawing("A probe: what can be read from one layer, tested on held-out pictures", 250)
    art.text(30, 34, "states of one site and position", "soft")
    for i, (name, kind) in enumerate((("train", "vision"), ("validation", "joint"), ("test", "lm"))):
        y = 50 + i * 62
        for k in range(3 if i == 0 else 1):
            art.box(30 + 8 * k, y + 6 * k, 150, 26, kind, "" if k < (2 if i == 0 else 0) else f"{name} pictures")
    art.box(300, 50, 150, 40, "box", "logistic regression")
    art.path([(200, 70), (298, 70)], arrow=True)
    art.text(212, 62, "fit", "soft")
    art.path([(180, 125), (375, 125), (375, 91)], arrow=True)
    art.text(212, 118, "choose the strength", "soft")
    art.path([(180, 187), (560, 187)], arrow=True)
    art.text(212, 180, "score once", "soft")
    art.path([(450, 70), (520, 70), (520, 160), (575, 160), (575, 168)], arrow=True)
    art.box(562, 170, 170, 34, "box", "98.1 % [96.9, 99.2]")
    art.text(732, 226, "interval: pictures drawn again", "soft", "end")
    art.text(30, 234, "all rows about a picture, and of its near-duplicates, are on one side", "soft")
    return art


def control() -> Drawing:
    """The same way with one thing exchanged each time."""
    art = Drawing("Controls: the same experiment with one thing changed", 306)
    columns = ((190, "picture"), (320, "text"), (450, "weights"), (580, "labels"))
    for x, head in columns:
        art.text(x + 55, 34, head, "soft", "middle")
    rows: dict[str, dict[str, str]] = {
        "(the run itself)": {},
        "shuffled_picture": {"picture": "another"},
        "text_only": {"picture": "none"},
        "random_weights": {"weights": "drawn"},
        "control_task": {"labels": "by type"},
        "question_only": {"picture": "none", "weights": "none"},
    }
    for i, (name, changed) in enumerate(rows.items()):
        y = 46 + i * 38
        art.text(26, y + 20, name, "name" if i else "soft")
        for x, head in columns:
            art.box(x, y, 110, 28, "other" if head in changed else "box", changed.get(head, "real"))
    art.text(26, 290, "compare the score of a run with these rows of the same CSV", "soft")
    return art


def drawings() -> dict[Path, str]:
    """{file: its content}."""
    return {FOLDER / f"{draw.__name__}.svg": draw().svg() for draw in (site, position, probe, control)}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, text in drawings().items():
        path.write_text(text, encoding="utf-8")
