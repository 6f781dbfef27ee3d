"""Templates, filled: one head for all pages. Whatever is put in is escaped; fetches nothing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mllm_probe.report.html.plotly import MISSING, Library, script_digest

TEMPLATE = Path(__file__).parent / "template"


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
