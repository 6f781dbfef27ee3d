"""Samples -> activations in the store. Knows the Extractable protocol, no model class and no label.

`from mllm_probe import extract` is this room, since a package wins over a function of its name; called, it does what
`mllm_probe.api.extract` does.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *overrides: str, **options: Any) -> Any:
        return import_module("mllm_probe.api").extract(*overrides, **options)


sys.modules[__name__].__class__ = _Callable
