"""`build`, which turns a `_target_` node of a config into the object it describes."""

import importlib
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from mllm_probe.config.sentences import LISTED, MAPPED, TYPES, show
from mllm_probe.errors import ConfigError, choices

T = TypeVar("T")
# Where classes are that configs of older releases name, by those names.
MOVED = {
    **{
        f"mllm_probe.vision.features.{name}": f"mllm_probe.features.integrations.{name}"
        for name in ("Sti", "Sci", "Dci", "Concat")
    },
    "mllm_probe.vision.features.Single": "mllm_probe.features.single.Single",
    "mllm_probe.vision.tuning.ConnectorTuning": "mllm_probe.vision.connector.ConnectorTuning",
    "mllm_probe.sugar.tuning.SugarTuning": "mllm_probe.sugar.target.SugarTuning",
}


def build(node: Mapping[str, Any], expected: type[T], plugins: tuple[str, ...] = (), at: str = "", **more: Any) -> T:
    """The object that a `_target_` node describes; `more` are arguments the code supplies. `at`: where the node stands
    among the settings ("" = where `expected` says).

    Only classes of mllm_probe and of the packages named in `plugins` are accepted, only the arguments their
    constructors declare, and only objects that satisfy `expected`. Raises ConfigError.
    """
    at = at or expected.__name__.lower()
    if not isinstance(node, Mapping) or "_target_" not in node:
        found = "null" if node is None else repr(node)
        raise ConfigError(f"{at} is {found}; it needs a _target_, the class to build, as each option of conf/ has one")
    target = node["_target_"]
    _check_type(target, str, f"{at}._target_")
    if target.split(".")[0] not in ("mllm_probe", *plugins):
        raise ConfigError(f"_target_={target} is refused: list its package in plugins to allow it")
    made = _locate(MOVED.get(target, target))
    given = {name: value for name, value in node.items() if name != "_target_"}
    accepted = inspect.signature(made).parameters
    for name, value in given.items():
        if name in more:
            raise ConfigError(f"'{name}' of {target} cannot be set here; it follows data.{name}")
        if name not in accepted:
            raise ConfigError(f"'{name}' is no setting of {target}; {choices(name, accepted)}")
        _check_type(value, accepted[name].annotation, f"{at}.{name}")
    thing = made(**given, **{name: value for name, value in more.items() if name in accepted})
    lacking = [name for name in dir(expected) if not name.startswith("_") and not hasattr(thing, name)]
    if lacking:
        raise ConfigError(f"{target} is no {expected.__name__}: it lacks {', '.join(lacking)}")
    return thing


def first_named(node: Any) -> Any:
    """Plain values with every `_target_` under the name it had first, so that digests of them outlive a move."""
    names = {new: old for old, new in MOVED.items()}
    if isinstance(node, list):
        return [first_named(each) for each in node]
    if not isinstance(node, Mapping):
        return node
    return {key: names.get(value, value) if key == "_target_" else first_named(value) for key, value in node.items()}


def _check_type(value: Any, annotation: Any, what: str) -> None:
    """Refuse "many" where a number is declared; annotations that are no plain types are not checked."""
    said = f"{what}={repr(value) if isinstance(value, str) else show(value)}"
    if typing.get_origin(annotation) is Sequence:
        if not isinstance(value, list):
            raise ConfigError(f"{said} must be {LISTED}")
        for item in value:
            _check_type(item, typing.get_args(annotation)[0], what)
        return
    if typing.get_origin(annotation) is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{said} must be {MAPPED}")
        return
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    allowed = typing.get_args(annotation) if union else (annotation,)
    beside = [option for option in allowed if option is not type(None)]
    if union and len(beside) == 1 and typing.get_origin(beside[0]) in (Sequence, Mapping):
        if value is not None:
            _check_type(value, beside[0], what)
        return
    if any(option not in (int, float, str, bool, type(None)) for option in allowed):
        return
    exact = type(value) in allowed or (type(value) is int and float in allowed)
    if not exact:
        raise ConfigError(f"{said} must be {' or '.join(TYPES[option] for option in allowed)}")


def _locate(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"_target_={target} cannot be imported ({error})") from error
    if not inspect.isclass(made):
        raise ConfigError(f"_target_={target} is no class, and only classes are built")
    return made
