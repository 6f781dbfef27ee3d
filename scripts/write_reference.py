"""Write docs/commands.md: every command, setting and option, as the code and conf/ have them.

    python scripts/write_reference.py

A new command, dataclass, YAML file or constructor shows up by itself; what is wrong in the page is mended in its
docstring or comment. tests/test_reference.py fails where the page is not what this writes.
"""

import argparse
import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reference_sources import CONF, groups, heading, nodes, others, parser_of, refusals, remarks

from mllm_probe.cli import COMMANDS, PLAIN
from mllm_probe.config import SCHEMAS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
ALLOWED = refusals()
LONGEST = 120  # a longer default is no reading for a table
EVERYWHERE = {setting: what for found in ALLOWED.values() for setting, what in found.items()}
INTRODUCTION = """# Commands, settings and options

<!-- written by scripts/write_reference.py (make docs): mend the docstring or the YAML comment, not this page -->

`mllm-probe COMMAND [GROUP=OPTION ...] [key=value ...] [-m]`. A *group* is chosen among its [options](#options), which
are the YAML files under `conf/`; a *setting* is changed by its name. Defaults here are those of the code; options and
experiments set others, and `mllm-probe COMMAND --cfg job` prints what a command would go by. `null` switches a setting
off or leaves the choice to the program. `-m` runs every combination of comma-separated values.

Descriptions are those of the code. Where the column *allowed* is empty, any value of the type is taken.
"""


def page() -> str:
    """The whole of docs/commands.md."""
    listed = table(("command", "what it does"), [(link(_title(name), name), what) for name, what in COMMANDS.items()])
    parts = [INTRODUCTION, "## Commands", listed, *(part for name in COMMANDS for part in command(name))]
    parts += ["## Settings", *settings(), "## Options", *options()]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def command(name: str) -> Iterator[str]:
    yield f"### {_title(name)}"
    yield f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}."
    yield from plain_command(name) if name in PLAIN else job(name.replace(" ", "_"))


def plain_command(name: str) -> Iterator[str]:
    """What argparse knows of a command and of the commands below it."""
    parser = parser_of(name)
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    helps = {choice.dest: choice.help for action in below for choice in action._choices_actions}
    parsers = {f"{name} {word}": one for action in below for word, one in action.choices.items()}
    for title, one in parsers.items() or {name: parser}.items():
        rows = [(_argument(action), _prose(action.help or "")) for action in one._actions if action.dest != "help"]
        yield f"`mllm-probe {title}`: {_prose(helps[title.split()[-1]])}." if parsers else ""
        yield table(("argument", "meaning"), rows)


def _argument(action: argparse.Action) -> str:
    names = [f"{name} {_value(action)}".strip() for name in action.option_strings] or [_value(action)]
    return ", ".join(f"`{name}`" for name in names)


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        return " | ".join(map(str, action.choices)).replace("|", "\\|")
    shown = action.metavar if isinstance(action.metavar, str) else action.dest
    return {"*": f"[{shown} ...]", "+": f"{shown} ...", "?": f"[{shown}]"}.get(str(action.nargs), shown)


def job(name: str) -> Iterator[str]:
    """A command that Hydra composes: its groups, its own settings and the sections that it takes; what it shares with
    a command further up, by the same dataclass or by inheriting from it, is said there."""
    schema, before = SCHEMAS[name], list(SCHEMAS)[: list(SCHEMAS).index(name)]
    other = next((one for kind in schema.__mro__ for one in before if SCHEMAS[one] is kind), None)
    known = {f.name for f in dataclasses.fields(SCHEMAS[other])} if other else set()
    if other:
        yield f"Takes the groups and settings of {link(_title(_words(other)), _words(other))}" + (
            "." if schema is SCHEMAS[other] else ", and some of its own."
        )
    yield "" if other and schema is SCHEMAS[other] else described(schema, SCHEMAS[other] if other else object)
    chosen = [f"{link(f'{group}=', group)} ({_written(default)})" for group, default in groups(name).items()]
    yield f"Groups, and what they are without a choice: {', '.join(chosen)}." if chosen and not other else ""
    keys = [key for key, (_, _, commands) in _sections().items() if name in commands and key not in known]
    sections = [link(_section_title(key), key.split(" ")[0]) for key in keys]
    yield f"Sections of settings: {', '.join(sections)}." if sections else ""
    own = [f for f in dataclasses.fields(schema) if f.name not in known and f.name not in groups(name)]
    yield fields_table([(f, schema, "") for f in own if not dataclasses.is_dataclass(_kind(schema, f))])


def settings() -> Iterator[str]:
    for key, (kind, default, commands) in _sections().items():
        yield f"### {_section_title(key)}"
        yield f"Of {', '.join(f'`{_words(command)}`' for command in commands)}."
        yield described(kind)
        yield from (
            described(inner) for f in dataclasses.fields(kind) if dataclasses.is_dataclass(inner := _kind(kind, f))
        )
        place = key.split(" ")[0] + (".NAME" if default == {} else "")
        yield fields_table(list(_leaves(kind, place)), default)


def _sections() -> dict[str, tuple[type, Any, list[str]]]:
    """{name: (dataclass, its default, the commands that take it)}; other defaults of the same name are named too, and
    {} is the default where a field holds many by name."""
    found: dict[str, tuple[type, Any, list[str]]] = {}
    for command_name, schema in SCHEMAS.items():
        for f in dataclasses.fields(schema):
            kind = _kind(schema, f)
            if not dataclasses.is_dataclass(kind):
                continue
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else {}
            key = f.name
            if key in found and found[key][1] != default:
                key = f"{f.name} of {_words(command_name)}"
            found.setdefault(key, (kind, default, []))[2].append(command_name)
    return found


def _section_title(key: str) -> str:
    name, _, rest = key.partition(" ")
    return f"`{name}` {rest}".strip() + " settings"


def _title(command_name: str) -> str:
    return f"`mllm-probe {command_name}`"


def _words(name: str) -> str:
    """A command as it is typed."""
    return name.replace("_", " ")


def _kind(schema: type, f: "dataclasses.Field[Any]") -> Any:
    """The dataclass that a field holds, or holds many of by name; else its type."""
    hint = typing.get_type_hints(schema)[f.name]
    inner = typing.get_args(hint)[-1:] if typing.get_origin(hint) is dict else ()
    return inner[0] if inner and dataclasses.is_dataclass(inner[0]) else hint


def _leaves(kind: type, place: str) -> Iterator[tuple["dataclasses.Field[Any]", type, str]]:
    for f in dataclasses.fields(kind):
        inner = _kind(kind, f)
        if dataclasses.is_dataclass(inner):
            yield from _leaves(typing.cast(type, inner), f"{place}.{f.name}")
        else:
            yield f, kind, place


def fields_table(leaves: Sequence[tuple["dataclasses.Field[Any]", type, str]], start: Any = None) -> str:
    rows = []
    for f, kind, place in leaves:
        name = f"{place}.{f.name}".strip(".")
        default = getattr(start, f.name) if isinstance(start, kind) else _default(f)
        hint = typing.get_type_hints(kind)[f.name]
        rows.append((f"`{name}`", type_name(hint), value(default), EVERYWHERE.get(name, "")))
    return table(("setting", "type", "default", "allowed"), rows)


def _default(f: "dataclasses.Field[Any]") -> Any:
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default


def options() -> Iterator[str]:
    """Group by group, those of Hydra's own last: a table of the options, and one of settings where a class has some."""
    folders = sorted(
        {path.parent for path in CONF.glob("*/**/*.yaml")}, key=lambda folder: (folder.parent != CONF, folder)
    )
    for folder in sorted(folders, key=lambda folder: (folder.parent != CONF, folder)):
        group = folder.relative_to(CONF).as_posix()
        files = sorted(folder.glob("*.yaml"))
        yield f"### `{group}=`"
        rows = [(f"[`{path.stem}`](../conf/{group}/{path.name})", heading(path)) for path in files]
        yield table(("option", "what it is"), rows)
        for path in files:
            for place, node in nodes(path):
                yield option(f"`{group}={path.stem}`", path, place, node)


def option(title: str, path: Path, place: str, node: Mapping[str, Any]) -> str:
    """The constructor that a `_target_` names: what it says of itself, and the settings that the file holds."""
    module, _, name = str(node["_target_"]).rpartition(".")
    made = getattr(importlib.import_module(module), name)
    said, accepted = remarks(path), inspect.signature(made).parameters
    allowed = {setting: what for base in made.__mro__ for setting, what in ALLOWED.get(base.__module__, {}).items()}
    rows = []
    for key, default in node.items():
        if key == "_target_":
            continue
        setting = f"{place}.{key}"
        kind, may_be = type_name(accepted[key].annotation), allowed.get(setting, EVERYWHERE.get(setting, ""))
        rows.append((f"`{setting}`", kind, value(default), said.get(key, ""), may_be))
    texts = [f"#### {title}", described(made), table(("setting", "type", "default", "meaning", "allowed"), rows)]
    if more := [f"`{setting}={_written(one)}`" for setting, one in others(path)]:
        texts.append(f"Sets {', '.join(more)} as well.")
    return "\n\n".join(text for text in texts if text) if rows else ""


def described(kind: type, known: type = object) -> str:
    """The docstrings of a class and of those it inherits settings from; not what dataclass makes up, nor those of a
    class that is described elsewhere."""
    bases = [base for base in kind.__mro__ if dataclasses.is_dataclass(base) and not issubclass(known, base)]
    own = [base.__dict__.get("__doc__") or "" for base in bases]
    texts = [inspect.cleandoc(text) for text in own if text and not text.startswith(f"{kind.__name__}(")]
    paragraphs = [paragraph for text in texts for paragraph in text.split("\n\n")]
    return "\n\n".join(_prose(paragraph) for paragraph in paragraphs)


def _prose(text: str) -> str:
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
    """A value as one writes it on the command line."""
    if default is dataclasses.MISSING or default == "???":
        return ""
    written = _written(default)
    return f"`{written}`" if len(written) <= LONGEST else "see the file"


def _written(default: Any) -> str:
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    if isinstance(default, list | tuple):
        return f"[{', '.join(map(_written, default))}]"
    if isinstance(default, dict):
        return "{" + ", ".join(f"{key}: {_written(one)}" for key, one in default.items()) + "}"
    return str(default)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table without the columns that are empty in every row; nothing without rows."""
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    lines = [[head[i] for i in kept], ["---"] * len(kept), *([_cell(row[i]) for i in kept] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""


def _cell(text: str) -> str:
    return text.replace("\\|", "|").replace("|", "\\|")


def link(title: str, text: str) -> str:
    """To a heading of this page, as GitHub names it."""
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return f"[`{text}`](#{kept.replace(' ', '-')})"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
