"""What there is to set, as records: settings with their types, defaults and ranges, section by section.

Read from the dataclasses, the constructors that `_target_` names, and conf/; docs/commands.md and what `--help` and the
Tab key know are both written from here. Knows no Markdown.
"""

import dataclasses
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reference_sources import CONF, groups, nodes, others, refusals, remarks

from mllm_probe.cli.entry import COMMANDS, PLAIN
from mllm_probe.config.schemas import SCHEMAS, schema_of

ALLOWED = refusals()
LONGEST = 120  # a longer default is no reading for a table
ELSEWHERE = "see the file"
RAISES = re.compile(r" ?Raises \w+(, \w+)*\.$")  # for who calls the constructor
EVERYWHERE = {setting: what for found in ALLOWED.values() for setting, what in found.items()}


class Row(typing.NamedTuple):
    """One setting; `allowed` has choices in backticks, and is empty where any value of the type is taken."""

    name: str
    type: str
    default: str
    meaning: str
    allowed: str


@dataclasses.dataclass(frozen=True)
class Section:
    """The settings of one dataclass, at one place and with one set of defaults, and what the dataclass says of them."""

    commands: list[str]
    about: list[str]
    rows: list[Row]


@dataclasses.dataclass(frozen=True)
class Option:
    """A file of a group whose constructor has settings; `sets` is what it gives other settings."""

    about: list[str]
    rows: list[Row]
    sets: dict[str, str]


def sections() -> dict[str, Section]:
    """{name: section}; where commands have other defaults under one name, it is `NAME of COMMAND`."""
    found: dict[str, tuple[type, Any, list[str]]] = {}
    for command in SCHEMAS:
        schema = schema_of(command)
        for f in dataclasses.fields(schema):
            kind = kind_of(schema, f)
            if not dataclasses.is_dataclass(kind):
                continue
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else {}
            key = f.name
            if key in found and found[key][1] != default:
                key = f"{f.name} of {words(command)}"
            found.setdefault(key, (kind, default, []))[2].append(command)
    return {
        key: Section(commands, _told(kind), _set(key, kind, default))
        for key, (kind, default, commands) in found.items()
    }


def _told(kind: type) -> list[str]:
    """The docstrings of a dataclass and of those it holds, each once."""
    inner = [kind_of(kind, f) for f in dataclasses.fields(kind)]
    texts = [text for one in (kind, *filter(dataclasses.is_dataclass, inner)) for text in described(one)]
    return list(dict.fromkeys(texts))


def _set(key: str, kind: type, default: Any) -> list[Row]:
    place = key.split(" ")[0] + (".NAME" if default == {} else "")
    return rows(list(_leaves(kind, place)), default)


def chosen(job: str) -> dict[str, str]:
    """{group of a command: its option without a choice}."""
    return {group: _written(default) for group, default in groups(job).items()}


def words(name: str) -> str:
    """A command as it is typed."""
    return name.replace("_", " ")


def own_rows(schema: type, known: Sequence[str]) -> list[Row]:
    """Settings of a command that stand in no section and are no group; `known` ones are left out."""
    fields = [f for f in dataclasses.fields(schema) if f.name not in known]
    return rows([(f, schema, "") for f in fields if not dataclasses.is_dataclass(kind_of(schema, f))])


def kind_of(schema: type, f: "dataclasses.Field[Any]") -> Any:
    """The dataclass that a field holds, or holds many of by name; else its type."""
    hint = typing.get_type_hints(schema)[f.name]
    inner = typing.get_args(hint)[-1:] if typing.get_origin(hint) is dict else ()
    return inner[0] if inner and dataclasses.is_dataclass(inner[0]) else hint


def _leaves(kind: type, place: str) -> Iterator[tuple["dataclasses.Field[Any]", type, str]]:
    for f in dataclasses.fields(kind):
        inner = kind_of(kind, f)
        if dataclasses.is_dataclass(inner):
            yield from _leaves(typing.cast(type, inner), f"{place}.{f.name}")
        else:
            yield f, kind, place


def rows(leaves: Sequence[tuple["dataclasses.Field[Any]", type, str]], start: Any = None) -> list[Row]:
    found = []
    for f, kind, place in leaves:
        name = f"{place}.{f.name}".strip(".")
        default = getattr(start, f.name) if isinstance(start, kind) else _default(f)
        hint = typing.get_type_hints(kind)[f.name]
        found.append(Row(name, type_name(hint), value(default), "", EVERYWHERE.get(name, "")))
    return found


def _default(f: "dataclasses.Field[Any]") -> Any:
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default


def options() -> Iterator[tuple[str, Path, Option]]:
    """(group, file, what it holds), group by group, those of Hydra's own last."""
    folders = {path.parent for path in CONF.glob("*/**/*.yaml")}
    for folder in sorted(folders, key=lambda folder: (folder.parent != CONF, folder)):
        for path in sorted(folder.glob("*.yaml")):
            yield folder.relative_to(CONF).as_posix(), path, _option(path)


def _option(path: Path) -> Option:
    sets = {setting: _written(one) for setting, one in others(path)}
    about, found = [], []
    for place, node in nodes(path):
        made, told = _constructed(path, place, node)
        about, found = [*about, *made], [*found, *told]
    return Option(about, found, sets)


def _constructed(path: Path, place: str, node: Mapping[str, Any]) -> tuple[list[str], list[Row]]:
    """The constructor that a `_target_` names: what it says of itself, and the settings that the file holds."""
    module, _, name = str(node["_target_"]).rpartition(".")
    made = getattr(importlib.import_module(module), name)
    said, accepted = remarks(path), inspect.signature(made).parameters
    allowed = {setting: what for base in made.__mro__ for setting, what in ALLOWED.get(base.__module__, {}).items()}
    found = []
    for key, default in node.items():
        if key == "_target_":
            continue
        setting = f"{place}.{key}"
        kind, may_be = type_name(accepted[key].annotation), allowed.get(setting, EVERYWHERE.get(setting, ""))
        found.append(Row(setting, kind, value(default), said.get(key, ""), may_be))
    return described(made), found


def described(kind: type, known: type = object) -> list[str]:
    """The docstrings of a class and of those it inherits settings from, as paragraphs; not what dataclass makes up, nor
    those of a class that is described elsewhere."""
    bases = [base for base in kind.__mro__ if dataclasses.is_dataclass(base) and not issubclass(known, base)]
    own = [base.__dict__.get("__doc__") or "" for base in bases]
    texts = [inspect.cleandoc(text) for text in own if text and not text.startswith(f"{kind.__name__}(")]
    paragraphs = [RAISES.sub("", prose(paragraph)) for text in texts for paragraph in text.split("\n\n")]
    return [paragraph for paragraph in paragraphs if paragraph]


def prose(text: str) -> str:
    """On one line."""
    return " ".join(text.split())


def type_name(kind: Any) -> str:
    """A type in words: `list of int`, `str or null`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind in (Any, type(None), inspect.Parameter.empty):
        return "null" if kind is type(None) else ""
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(type_name, args))
    if origin in (dict, Mapping):
        return f"{type_name(args[1])} by name"
    if args:
        return f"list of {type_name(args[0])}"
    return getattr(kind, "__name__", str(kind))


def value(default: Any) -> str:
    """A value as one writes it on the command line; a long one is in its file."""
    if default is dataclasses.MISSING or default == "???":
        return ""
    written = _written(default)
    return written if len(written) <= LONGEST else ELSEWHERE


def _written(default: Any) -> str:
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    if isinstance(default, list | tuple):
        return f"[{', '.join(map(_written, default))}]"
    if isinstance(default, dict):
        return "{" + ", ".join(f"{key}: {_written(one)}" for key, one in default.items()) + "}"
    return str(default)


def sentence(command: str) -> str:
    """What a command does."""
    return f"{COMMANDS[command][0].upper()}{COMMANDS[command][1:]}."


def reference() -> dict[str, Any]:
    """All of it as plain data: what mllm_probe/reference.json holds."""
    found = sections()
    commands = {}
    for name in (name for name in COMMANDS if name not in PLAIN):
        job = name.replace(" ", "_")
        named = {key.split(" ")[0]: key for key, section in found.items() if job in section.commands}
        own = own_rows(schema_of(job), [*(group.partition(".")[0] for group in groups(job)), *named])
        commands[name] = {
            "what": sentence(name),
            "about": described(schema_of(job)),
            "groups": chosen(job),
            "sections": named,
            "settings": _plain(own),
        }
    made: dict[str, dict[str, Any]] = {}
    for group, path, option in options():
        if option.rows:
            made.setdefault(group, {})[path.stem] = {"about": option.about, "settings": _plain(option.rows)}
    held = {key: {"about": one.about, "settings": _plain(one.rows)} for key, one in found.items()}
    return {"commands": commands, "sections": held, "options": made}


def _plain(found: Sequence[Row]) -> dict[str, dict[str, str]]:
    """{setting: what is known of it}, without what is empty."""
    return {row.name: {name: said for name, said in row._asdict().items() if said and name != "name"} for row in found}
