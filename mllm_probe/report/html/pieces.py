"""The page of what is no run: figure, sentences and tables that a command prints, in the pieces of report.html.

Knows no command: what is shown is given as parts, and the tables are those of the screen.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mllm_probe import __version__
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.store_paths import replacing
from mllm_probe.report.html.charts import Chart
from mllm_probe.report.html.page import command
from mllm_probe.report.html.skeleton import filled, without_codes


@dataclass(frozen=True)
class Grid:
    """A table of the screen without its markup."""

    view: Table

    @property
    def title(self) -> str:
        return _plain(self.view.title)

    @property
    def caption(self) -> str:
        return _plain(self.view.caption)

    @property
    def columns(self) -> list[str]:
        return [_plain(column.header) for column in self.view.columns]

    @cached_property
    def rows(self) -> list[tuple[str, ...]]:
        return list(zip(*(map(_plain, column.cells) for column in self.view.columns), strict=True))


@dataclass(frozen=True)
class Part:
    """A section of the page: sentences, charts with the still figure that stands in for them, tables, and pictures that
    are looked at token by token, see `pictured.under_tokens`."""

    heading: str
    said: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    figure: str = ""
    views: Sequence[Table] = ()
    viewer: Mapping[str, Any] | None = None

    @property
    def tables(self) -> Iterator[Grid]:
        return map(Grid, self.views)


def _plain(text: object) -> str:
    """A text of Rich's as it reads; what is a str is markup."""
    return text.plain if isinstance(text, Text) else Text.from_markup(str(text or ""), emoji=False).plain


def picture_uri(path: Path) -> str:
    """A PNG file as an address."""
    return f"data:image/png;base64,{b64encode(path.read_bytes()).decode()}"


def known_command(paths: RunPaths) -> str:
    """The command that made a folder, empty where that was another command's part."""
    return command(paths) if paths.status.is_file() else ""


def write_other(
    path: Path, kicker: str, title: str, about: Sequence[str], parts: Sequence[Part], made_by: str = ""
) -> None:
    """The page in one move. `made_by` is the command that makes what it shows; empty where that is not known."""
    shown: dict[str, Any] = {"kicker": kicker, "title": title, "about": about, "parts": parts, "command": made_by}
    scripts = ("page.js", *(["viewer.js"] if any(part.viewer for part in parts) else []))
    content = filled("other.html", scripts=scripts, version=__version__, **shown)
    with replacing(path) as part:
        part.write_text(without_codes(content), encoding="utf-8")
