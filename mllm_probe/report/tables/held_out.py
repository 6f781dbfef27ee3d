"""What `tune` ends with: a sentence on the captions that were held out. Fits nothing."""

from collections.abc import Mapping
from typing import Any

SHARES = {"wins": "likelier with their own picture than with another", "answered": "statements answered rightly"}
SAID = ("held_out", "low", "high", "rows", "unit", "probed")  # of summary.json, in a sentence


def held_out_said(told: Mapping[str, Any]) -> str:
    """`2.1234 nats a token [2.0, 2.2] over 40 captions`."""
    bounds = f"[{told['low']:.4f}, {told['high']:.4f}]"
    shares = "".join(f", {told[name]:.1%} {what}" for name, what in SHARES.items() if name in told)
    return f"{told['held_out']:.4f} nats a token {bounds} over {told['rows']} {told['unit']}{shares}"
