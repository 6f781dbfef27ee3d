"""What the Tab key offers after a command with settings: groups, settings, and allowed values.

Knows what --help knows. Paths, settings of Hydra's own and names that a user gives are Hydra's to complete.
"""

from collections.abc import Iterator, Sequence

from mllm_probe.files import reference
from mllm_probe.files.reference import HELP

FLAGS = ("--help", "--multirun", "--cfg", "--config-dir", "--quiet", "--verbose")
NAME = "NAME"  # in a setting, where a user's own word stands


def completions(command: str, words: Sequence[str], typed: str) -> list[str]:
    """What may stand in the place of the word that is being typed behind `words`; nothing where that is not known."""
    if typed.startswith("-"):
        found: Iterator[str] = iter(FLAGS)
    elif not set(HELP).isdisjoint(words):
        found = iter(reference.names(command))
    elif "=" in typed:
        found = _values(command, words, typed)
    else:
        found = _settings(command, words) if "." in typed else _names(command, words)
    return list(dict.fromkeys(word for word in found if word.startswith(typed)))


def _values(command: str, words: Sequence[str], typed: str) -> Iterator[str]:
    """Of a setting or a group; in a list, and where several are tried, of its last element."""
    name, _, value = typed.partition("=")
    kept = max(value.rfind(","), value.rfind("[")) + 1
    options = reference.options(name) if name in reference.groups(command) else ()
    values = options or reference.choices_of(_known(command, words).get(name, {}))
    yield from (f"{name}={value[:kept]}{one}" for one in values)


def _names(command: str, words: Sequence[str]) -> Iterator[str]:
    """Groups, settings that stand in no section, and the sections up to their dot."""
    yield from (f"{name}=" for name in (*reference.groups(command), *reference.own(command)))
    yield from (f"{name.partition('.')[0]}." for name in _known(command, words) if "." in name)


def _settings(command: str, words: Sequence[str]) -> Iterator[str]:
    yield from (f"{name}=" for name in _known(command, words) if NAME not in name.split("."))


def _known(command: str, words: Sequence[str]) -> reference.Settings:
    """All settings: those of the command, and those of the options that are chosen."""
    chosen = reference.groups(command) | dict(word.split("=", 1) for word in words if "=" in word)
    found = dict(reference.own(command))
    for name in reference.sections(command):
        found |= reference.section(command, name)[1]
    for group in reference.groups(command):
        for option in chosen[group].strip("[]").split(","):
            found |= reference.made(group).get(option.strip(), ([], {}))[1]
    return found
