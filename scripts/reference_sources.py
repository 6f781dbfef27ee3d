"""What docs/commands.md is written from: comments of conf/, parsers of plain commands, and the refusals in the code.

A refusal, `raise ConfigError(f"a.b={value} is unknown; {choices(value, ALLOWED)}")`, is the one place that knows what a
setting may be, so allowed values are read from there, and from the table of ranges, and are listed nowhere twice. Knows
no Markdown.
"""

import ast
import importlib
import re
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mllm_probe.cli import entry as cli
from mllm_probe.config.schemas import RANGES
from mllm_probe.config.schemas import __name__ as RANGES_IN
from mllm_probe.files.paths import config_dir

PACKAGE = Path(cli.__file__).parents[1]
CONF = config_dir()
HOLE = "\0"  # where an f-string has a value
SETTING = re.compile(rf"([a-z_]+(?:\.[a-z_]+)*)(?:={HOLE}| names (?:the unknown \w+ )?'{HOLE}')")
AMOUNT = r"at least [\d.]+(?: and below [\d.]+)?|above [\d.]+|between [\d.]+ and [\d.]+|[\d.]+ or more"
BOUND = re.compile(rf"={HOLE} must (?:be|lie) ({AMOUNT})")


class _Refusals(ast.NodeVisitor):
    """Collects {setting: what it may be} of one module. A loop over a literal tuple is gone through row by row."""

    def __init__(self, module: str) -> None:
        self.module, self.names, self.found = module, dict[str, ast.expr](), dict[str, str]()
        self.late: dict[str, str] = {}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.late |= {alias.name: str(node.module) for alias in node.names}  # those inside of functions are late

    def visit_For(self, node: ast.For) -> None:
        targets = _cells(node.target)
        rows = [_cells(_drawn(row)) for row in node.iter.elts] if isinstance(node.iter, ast.Tuple) else []
        outer = self.names
        for row in [row for row in rows if len(row) == len(targets)] or [[]]:
            named = zip(targets, row, strict=False)
            self.names = outer | {target.id: cell for target, cell in named if isinstance(target, ast.Name)}
            self.generic_visit(node)
        self.names = outer

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        text = "".join(self._text(part) for part in node.values)
        setting, bound = SETTING.match(text), BOUND.search(text)
        if setting is None:
            return
        called = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        for call in called:
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "choices":
                self._keep(setting[1], self._values(call.args[1]))
        if bound is not None:
            self._keep(setting[1], bound[1])

    def _keep(self, setting: str, what: str) -> None:
        if what:
            self.found.setdefault(setting, what)

    def _text(self, part: ast.expr) -> str:
        if isinstance(part, ast.FormattedValue):
            value = part.value
            part = self.names.get(value.id, value) if isinstance(value, ast.Name) else value
        return str(part.value) if isinstance(part, ast.Constant) else HOLE

    def _values(self, node: ast.expr) -> str:
        """The values of an expression that needs nothing but its module, else nothing."""
        node = self.names.get(node.id, node) if isinstance(node, ast.Name) else node
        scope = dict(vars(importlib.import_module(self.module)))
        for name in [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]:
            if name not in scope and name in self.late:
                scope[name] = getattr(importlib.import_module(self.late[name]), name)
        try:
            values = eval(compile(ast.Expression(node), self.module, "eval"), scope)
        except (NameError, AttributeError):  # a variable of the function: known at run time only
            return ""
        return ", ".join(f"`{value}`" for value in values)


def _cells(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple) else [node]


def _drawn(node: ast.expr) -> ast.expr:
    """Of `*(row for ...)` the row."""
    return node.value.elt if isinstance(node, ast.Starred) and isinstance(node.value, ast.GeneratorExp) else node


def refusals() -> dict[str, dict[str, str]]:
    """{module: {setting: what it may be}}."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        visitor = _Refusals(module)
        visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
        found[module] = visitor.found
    bounds = {name: re.sub("^must (be|lie) ", "", said) for names, said, _ in RANGES for name in names}
    return found | {RANGES_IN: bounds}


def remarks(path: Path) -> dict[str, str]:
    """{key: its comment}: what stands behind it, or in the lines above it where these are indented as it is."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("#"):
            above.append(text.removeprefix("#").strip())
            continue
        key, _, rest = text.partition(":")
        behind = rest.partition("  # ")[2]
        comment = "; ".join(filter(None, (" ".join(above), behind)))
        if comment and (line.startswith(" ") or behind):  # what stands above a first key belongs to the file
            found[key] = comment
        above = []
    return found


def package(path: Path) -> str:
    """Where Hydra puts what a file of a group holds: `_global_` is the top."""
    said = re.match(r"# @package (\S+)", path.read_text(encoding="utf-8"))
    return (said[1] if said else path.parent.relative_to(CONF).as_posix()).removeprefix("_global_")


def others(path: Path) -> Iterator[tuple[str, Any]]:
    """(setting, value) of what a file of a group sets beside its `_target_` nodes."""
    stack = [(package(path), yaml.safe_load(path.read_text(encoding="utf-8")) or {})]
    while stack:
        place, node = stack.pop(0)
        if not isinstance(node, dict):
            yield place, node
        elif "_target_" not in node:
            stack += [(f"{place}.{key}".strip("."), value) for key, value in node.items() if key != "defaults"]


def nodes(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where it stands, node) of the `_target_` nodes in a file of a group."""
    stack = [(package(path), yaml.safe_load(path.read_text(encoding="utf-8")) or {})]
    while stack:
        place, node = stack.pop()
        if "_target_" in node:
            yield place, node
            continue
        stack += [(f"{place}.{key}".strip("."), value) for key, value in node.items() if isinstance(value, dict)]


def groups(name: str) -> dict[str, Any]:
    """{group: its default} of a primary YAML, those of the files that it begins with included; a group that stands at
    another place, as `dataset` at test.dataset, is called by that."""
    path = CONF / f"{name}.yaml"
    found: dict[str, Any] = {}
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")).get("defaults", ()) if path.is_file() else ():
        if isinstance(entry, str):
            found |= groups(entry) if entry != "_self_" else {}
        else:
            named = {key.removeprefix("optional ").rpartition("@")[2]: value for key, value in entry.items()}
            found |= {key: value for key, value in named.items() if not key.startswith("override")}
    return found


class _Caught(Exception):
    pass


def parser_of(command: str) -> ArgumentParser:
    """The parser that a plain command makes, caught when it is about to parse."""

    def caught(parser: ArgumentParser, *_: Any) -> None:
        raise _Caught(parser)

    original, ArgumentParser.parse_args = ArgumentParser.parse_args, caught  # type: ignore[assignment, method-assign]
    try:
        importlib.import_module(f"mllm_probe.{cli.PLAIN[command]}").run([])
    except _Caught as stop:
        return stop.args[0]
    finally:
        ArgumentParser.parse_args = original  # type: ignore[method-assign]
    raise ValueError(f"`mllm-probe {command}` parses nothing")
