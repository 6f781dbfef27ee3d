"""Write docs/commands.md, and mllm_probe/reference.json for `--help` and the Tab key: what there is to set, as the code
and conf/ have it.

    python scripts/write_reference.py

A new command, dataclass, YAML file or constructor shows up by itself; what is wrong in the page is fixed in its
docstring or comment. tests/project/test_reference.py fails where a file is not what this writes.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import reference_data as data
from reference_data import Option, Row, Section, words
from reference_sources import groups, parser_of

from mllm_probe.cli.entry import COMMANDS, PLAIN
from mllm_probe.config.schemas import SCHEMAS, schema_of
from mllm_probe.files.reference import REFERENCE, heading

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
INTRODUCTION = """# Commands, settings and options

<!-- written by scripts/write_reference.py (make docs): fix the docstring or the YAML comment, not this page -->

`mllm-probe COMMAND [GROUP=OPTION ...] [key=value ...] [-m]`. A *group* is chosen among its [options](#options), which
are the YAML files under `conf/`; a *setting* is changed by its name. Defaults here are those of the code; options and
experiments set others, and `mllm-probe COMMAND --cfg job` prints what a command would go by. `null` switches a setting
off or leaves the choice to the program. `-m` runs every combination of comma-separated values.

Descriptions are those of the code. Where the column *allowed* is empty, any value of the type is taken.
"""


def page() -> str:
    """The whole of docs/commands.md."""
    listed = table(("command", "what it does"), [(link(_title(name), name), what) for name, what in COMMANDS.items()])
    sections = data.sections()
    parts = [INTRODUCTION, "## Commands", listed, *(part for name in COMMANDS for part in command(name, sections))]
    parts += ["## Settings", *settings(sections), "## Options", *options()]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def known() -> str:
    """The whole of mllm_probe/reference.json."""
    return json.dumps(data.reference(), indent=1, ensure_ascii=False) + "\n"


def command(name: str, sections: Mapping[str, Section]) -> Iterator[str]:
    yield f"### {_title(name)}"
    yield data.sentence(name)
    yield from plain_command(name) if name in PLAIN else job(name.replace(" ", "_"), sections)


def plain_command(name: str) -> Iterator[str]:
    """What argparse knows of a command and of the commands below it."""
    parser = parser_of(name)
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    helps = {choice.dest: choice.help for action in below for choice in action._choices_actions}
    parsers = {f"{name} {word}": one for action in below for word, one in action.choices.items()}
    for title, one in parsers.items() or {name: parser}.items():
        rows = [(_argument(action), data.prose(action.help or "")) for action in one._actions if action.dest != "help"]
        yield f"`mllm-probe {title}`: {data.prose(helps[title.split()[-1]])}." if parsers else ""
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


def job(name: str, sections: Mapping[str, Section]) -> Iterator[str]:
    """A command that Hydra composes: its groups, its own settings and the sections that it takes; what it shares with
    a command further up, by the same dataclass or by inheriting from it, is said there."""
    schema, before = schema_of(name), list(SCHEMAS)[: list(SCHEMAS).index(name)]
    other = next((one for kind in schema.__mro__ for one in before if schema_of(one) is kind), None)
    known = {f.name for f in dataclasses.fields(schema_of(other))} if other else set()
    if other:
        yield f"Takes the groups and settings of {link(_title(words(other)), words(other))}" + (
            "." if SCHEMAS[name] == SCHEMAS[other] else ", and some of its own."
        )
    if not other or SCHEMAS[name] != SCHEMAS[other]:
        yield from data.described(schema, schema_of(other) if other else object)
    own = {group: group.rpartition(".")[2] for group in data.chosen(name)}  # test.dataset has the options of dataset
    chosen = [f"{link(f'{own[group]}=', group)} ({default})" for group, default in data.chosen(name).items()]
    yield f"Groups, and what they are without a choice: {', '.join(chosen)}." if chosen and not other else ""
    keys = [key for key, section in sections.items() if name in section.commands and key not in known]
    named = [link(_section_title(key), key.split(" ")[0]) for key in keys]
    yield f"Sections of settings: {', '.join(named)}." if named else ""
    yield settings_table(data.own_rows(schema, [*known, *(group.partition(".")[0] for group in groups(name))]))


def settings(sections: Mapping[str, Section]) -> Iterator[str]:
    for key, section in sections.items():
        yield f"### {_section_title(key)}"
        yield f"Of {', '.join(f'`{words(command)}`' for command in section.commands)}."
        yield from section.about
        yield settings_table(section.rows)


def settings_table(rows: Sequence[Row]) -> str:
    head = ("setting", "type", "default", "meaning", "allowed")
    return table(head, [(f"`{row.name}`", row.type, _default(row.default), row.meaning, row.allowed) for row in rows])


def _default(written: str) -> str:
    return written if written in ("", data.ELSEWHERE) else f"`{written}`"


def _section_title(key: str) -> str:
    name, _, rest = key.partition(" ")
    return f"`{name}` {rest}".strip() + " settings"


def _title(command_name: str) -> str:
    return f"`mllm-probe {command_name}`"


def options() -> Iterator[str]:
    """Group by group: a table of the options, and one of settings where a class has some."""
    for group, entries in groupby(data.options(), key=lambda entry: entry[0]):
        held = [(path, one) for _, path, one in entries]
        yield f"### `{group}=`"
        rows = [(f"[`{path.stem}`](../conf/{group}/{path.name})", heading(path)) for path, _ in held]
        yield table(("option", "what it is"), rows)
        for path, one in held:
            yield from option(f"`{group}={path.stem}`", one) if one.rows else ()


def option(title: str, one: Option) -> Iterator[str]:
    yield f"#### {title}"
    yield from one.about
    yield settings_table(one.rows)
    if one.sets:
        yield f"Sets {', '.join(f'`{setting}={value}`' for setting, value in one.sets.items())} as well."


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
    REFERENCE.write_text(known(), encoding="utf-8")
