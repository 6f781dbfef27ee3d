"""Which layers of a multimodal language model hold global meaning, and which local.

In a script or a notebook: `from mllm_probe import run, extract, sweep, load_cache, load_scores`; their types are in the
stub beside this file.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["extract", "load_cache", "load_scores", "run", "sweep"]


def __getattr__(name: str) -> Any:
    """The interface is imported when it is asked for, since `mllm-probe --help` must be quick."""
    if name in __all__:
        return getattr(import_module("mllm_probe.api"), name)
    raise AttributeError(f"module 'mllm_probe' has no attribute '{name}'")
