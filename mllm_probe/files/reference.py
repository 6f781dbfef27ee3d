"""What there is to set, as mllm_probe/reference.json has it: commands, their groups, and settings section by section.

The file is written by scripts/write_reference.py. Imports nothing but the standard library, since `--help` and every
Tab press must be quick.
"""

import json
from collections.abc import Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from mllm_probe.files.paths import config_dir

REFERENCE = Path(__file__).resolve().parents[1] / "reference.json"
HELP = ("-h", "--help")
Settings = dict[str, dict[str, str]]  # {setting: what is known of it: type, default, meaning, allowed}


@cache
def _known() -> dict[str, Any]:
    return json.loads(REFERENCE.read_text(encoding="utf-8"))


def what(command: str) -> str:
    """What a command does, a sentence."""
    return _known()["commands"][command]["what"]


def about(command: str) -> list[str]:
    """Paragraphs on the settings that stand in no section."""
    return _known()["commands"][command]["about"]


def groups(command: str) -> dict[str, str]:
    """{group: its option without a choice}."""
    return _known()["commands"][command]["groups"]


def own(command: str) -> Settings:
    """The settings that stand in no section."""
    return _known()["commands"][command]["settings"]


def sections(command: str) -> list[str]:
    return list(_known()["commands"][command]["sections"])


def names(command: str) -> list[str]:
    """What `--help` can show alone: groups, sections, and settings that stand in none."""
    return list(dict.fromkeys([*groups(command), *sections(command), *own(command)]))


def section(command: str, name: str) -> tuple[list[str], Settings]:
    """What a section is about, and its settings."""
    found = _known()["sections"][_known()["commands"][command]["sections"][name]]
    return found["about"], found["settings"]


def made(group: str) -> dict[str, tuple[list[str], Settings]]:
    """{option: what it is about, and its settings} of the options that have some."""
    return {name: (one["about"], one["settings"]) for name, one in _known()["options"].get(group, {}).items()}


def choices_of(said: dict[str, str]) -> list[str]:
    """The values that a setting is chosen among; none where any value or a range of numbers is allowed."""
    if said.get("type") == "bool":
        return ["true", "false"]
    return said.get("allowed", "").split("`")[1::2]


def options(group: str, folders: Sequence[Path] | None = None) -> dict[str, str]:
    """{option: what it is, and where weights come from} of a group, in conf/ (None) or in several folders like it;
    test.dataset has those of dataset."""
    place = group.rpartition(".")[2]
    found = [path for folder in folders or [config_dir()] for path in sorted((folder / place).glob("*.yaml"))]
    return {path.stem: " ".join(filter(None, (heading(path), _hub(path)))) for path in found}


def heading(path: Path) -> str:
    """The comment that a YAML file begins with."""
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("# @package"))
    return " ".join(line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines))


def _hub(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return "".join(f"({line.partition(':')[2].strip()})" for line in lines if line.startswith("hub_id:"))
