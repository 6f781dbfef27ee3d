"""What `tune` ends with: a curve of the losses, one line, and its page. Fits nothing."""

from collections.abc import Mapping
from typing import Any

SAID = ("held_out", "low", "high", "rows", "unit", "probed")  # of summary.json, in a sentence


def held_out_said(told: Mapping[str, Any]) -> str:
    """`2.1234 nats a token [2.0, 2.2] over 40 captions`."""
    bounds = f"[{told['low']:.4f}, {told['high']:.4f}]"
    return f"{told['held_out']:.4f} nats a token {bounds} over {told['rows']} {told['unit']}"
