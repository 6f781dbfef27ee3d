"""The hub of checkpoints: what was fetched before, and whether more can be. No token is ever printed."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mllm_probe.machine.findings import NOTE, OK, Finding

HUB = ("huggingface.co", 443)
PATIENCE = 3.0  # seconds to wait for the hub
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def hub() -> Iterator[Finding]:
    flags = [name for name in OFFLINE if os.environ.get(name, "0").upper() in ("1", "TRUE", "YES", "ON")]
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")).expanduser()
    kept = sorted(folder.name.removeprefix("models--").replace("--", "/") for folder in home.glob("hub/models--*"))
    yield Finding("hub checkpoints", f"{', '.join(kept) or 'none'} in {home / 'hub'}")
    if flags:
        remedy = f"unset {' '.join(flags)} to fetch checkpoints"
        yield Finding("hub", f"not asked: {' and '.join(flags)} set", NOTE, remedy)
        return
    try:
        socket.create_connection(HUB, PATIENCE).close()
    except OSError as error:
        remedy = "model.path=FOLDER, a checkpoint that is here"
        yield Finding("hub", f"{HUB[0]} does not answer ({error})", NOTE, remedy)
        return
    known = os.environ.get("HF_TOKEN") or (home / "token").is_file()
    said = f"{HUB[0]} answers, {'logged in' if known else 'not logged in'}"
    yield Finding("hub", said, OK, "" if known else "hf auth login, for gated models")
