"""Templates, filled: one head for all pages, with the plot library. Whatever is put in is escaped; fetches nothing."""

import gzip
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATE = Path(__file__).parent / "template"
MISSING = "curves are not interactive; run `pip install 'mllm-probe[report]'`, then `mllm-probe report run=FOLDER`"


def filled(
    template: str, style: str = "page.css", live: bool = True, scripts: Sequence[str] = ("page.js",), **fields: Any
) -> str:
    """A template of ours with these fields and a style; a `live` page has our scripts and, where it is installed, the
    plot library."""
    from markupsafe import Markup

    script = "".join(map(_text, scripts)) if live else ""
    return (
        _templates()
        .get_template(template)
        .render(
            **fields,
            library=Library.find() if live else None,
            missing=MISSING,
            script=Markup(script),
            digest=script_digest(script.encode()),
            style=Markup(_text(style)),
        )
    )


@cache
def _templates() -> "Environment":
    """They are compiled once for all pages of a process."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    files = FileSystemLoader(TEMPLATE)
    pages = Environment(loader=files, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.policies["json.dumps_function"] = _strict
    return pages


def _text(name: str) -> str:
    return (TEMPLATE / name).read_text(encoding="utf-8")


def _strict(value: Any, **settings: Any) -> str:
    """JSON as browsers read it, which know no NaN: a value that is missing is null."""

    def known(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {name: known(one) for name, one in node.items()}
        if isinstance(node, list | tuple):
            return [known(one) for one in node]
        return None if isinstance(node, float) and node != node else node

    return json.dumps(known(value), allow_nan=False, **settings)


@dataclass(frozen=True)
class Library:
    """`packed`: base64 of the gzipped script; `digest`: what a content security policy calls the script."""

    packed: str
    digest: str

    @classmethod
    def find(cls) -> "Library | None":
        """None without the extra."""
        found = find_spec("plotly")
        if found is None or found.origin is None:
            return None
        script = Path(found.origin).parent / "package_data" / "plotly.min.js"
        return _packed(script) if script.is_file() else None


@cache
def _packed(script: Path) -> Library:
    """Once for all pages of a process."""
    content = script.read_bytes()
    return Library(b64encode(gzip.compress(content, mtime=0)).decode(), script_digest(content))


def script_digest(content: bytes) -> str:
    return f"sha256-{b64encode(sha256(content).digest()).decode()}"


CODE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # all but tabs and ends of lines


def without_codes(page: str) -> str:
    """A page in which no letter of a name is a command to whoever shows it."""
    return CODE.sub(lambda found: ascii(found[0])[1:-1], page)
