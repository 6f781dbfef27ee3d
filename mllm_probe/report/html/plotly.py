"""plotly.js for report.html: found in the Python package of the extra `report`, which is not imported.

plotly, not bokeh or vega: it draws SVG, so curves stay sharp on paper and every line is an element that a test or a
screen reader finds, it has heat maps, legends that switch lines and bands together, and touch; its Python package needs
two small ones. Its 4.8 MB travel compressed, 2 MB, and are unpacked by the browser.
"""

import gzip
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

MISSING = "curves are not interactive; run `pip install 'mllm-probe[report]'`, then `mllm-probe report run=FOLDER`"


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
