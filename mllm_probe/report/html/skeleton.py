"""Templates, filled: one head for all pages, with the plot library. Whatever is put in is escaped; fetches nothing."""

import gzip
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).parent / "template"


MISSING = "curves are not interactive; run `pip install 'mllm-probe[report]'`, then `mllm-probe report run=FOLDER`"


def filled(template: str, style: str = "page.css", live: bool = True, **fields: Any) -> str:
    """A template of ours with these fields and a style; a `live` page has our script and, where it is installed, the
    plot library."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    files = FileSystemLoader(TEMPLATE)
    pages = Environment(loader=files, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.policies["json.dumps_function"] = _strict
    script = _text("page.js") if live else ""
    return pages.get_template(template).render(
        **fields,
        library=Library.find() if live else None,
        missing=MISSING,
        script=Markup(script),
        digest=script_digest(script.encode()),
        style=Markup(_text(style)),
    )


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
        if not script.is_file():
            return None
        content = script.read_bytes()
        return cls(b64encode(gzip.compress(content, mtime=0)).decode(), script_digest(content))


def script_digest(content: bytes) -> str:
    return f"sha256-{b64encode(sha256(content).digest()).decode()}"
