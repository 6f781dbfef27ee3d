"""What `mllm-probe COMMAND --help` prints: groups and settings with what they mean and may be. Composes nothing."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import TextWrapper

from mllm_probe.errors import ConfigError, choices
from mllm_probe.files import reference
from mllm_probe.files.paths import config_dir
from mllm_probe.files.reference import HELP, Settings

WIDEST = 100  # columns of a line
MIDDLE, OPTION = 34, 20  # the column at which begins what a setting may be, what an option is
CONFIG_DIR = ("--config-dir", "-cd")
FLAGS = (
    "-m runs every combination of comma-separated values; --cfg job prints the composed config; --config-dir DIR adds "
    "your own groups; --quiet prints only results, their folder and errors, --verbose prints more."
)
DEFAULTS = (
    "Defaults are those of the code; options and experiments set others, and --cfg job prints the values that the "
    "command would use. null switches a setting off or leaves the choice to the program."
)


def run(args: Sequence[str]) -> None:
    """Prints the help of a command, the first of `args`, or of the sections that stand behind --help among the others.
    Raises ConfigError for a section that there is not."""
    command, *words = args
    print("\n\n".join(_explained(command, words)))


def _explained(command: str, words: Sequence[str]) -> Iterator[str]:
    folders, named = _folders(words), _named(words)
    for name in named:
        if name not in (known := reference.names(command)):
            raise ConfigError(f"'{name}' is no section of `{command}`; {choices(name, known)}")
    yield from (block for name in named for block in _section(command, name, folders))
    if not named:
        yield from _overview(command, folders)


def _named(words: Sequence[str]) -> list[str]:
    """The bare words behind --help."""
    behind = words[next(i for i, word in enumerate(words) if word in HELP) + 1 :]
    values = {i + 1 for i, word in enumerate(behind) if word in CONFIG_DIR}
    return [w for i, w in enumerate(behind) if i not in values and "=" not in w and not w.startswith("-")]


def _folders(words: Sequence[str]) -> list[Path]:
    more = [Path(words[i + 1]) for i, word in enumerate(words[:-1]) if word in CONFIG_DIR]
    return [config_dir(), *more]


def _overview(command: str, folders: Sequence[Path]) -> Iterator[str]:
    groups = reference.groups(command)
    takes = " FOLDER" if command == "report" else " [GROUP=OPTION ...]" * bool(groups)
    yield _text(f"usage: mllm-probe {command}{takes} [key=value ...] [-m] [--quiet | --verbose]", later=" " * 7)
    yield _text(reference.what(command))
    if groups:
        listed = [f"{group}: {', '.join(reference.options(group, folders))} (without a choice: {default})"
                  for group, default in groups.items()]  # fmt: skip
        yield "\n".join(["Groups (choose with GROUP=OPTION):", *(_text(line, "  ", "    ") for line in listed)])
    yield _text(f"Settings (change with key=value). {DEFAULTS}")
    yield from _block("", reference.about(command), reference.own(command))
    for name in reference.sections(command):
        yield from _block(name, *reference.section(command, name))
    yield _text(f"`mllm-probe {command} --help SECTION` shows one section in full, with the options of its group and "
                f"their settings: {', '.join(dict.fromkeys([*groups, *reference.sections(command)]))}.")  # fmt: skip
    yield _text(FLAGS)


def _section(command: str, name: str, folders: Sequence[Path]) -> Iterator[str]:
    """A section of settings, a group of options, or both; or the settings that stand in no section."""
    if name in reference.own(command) and name not in reference.groups(command):
        yield from _block("", reference.about(command), reference.own(command))
        return
    if name in reference.sections(command):
        yield from _block(name, *reference.section(command, name))
    if name in reference.groups(command):
        said = reference.options(name, folders)
        title = f"{name}=... (without a choice: {reference.groups(command)[name]})"
        yield "\n".join([title, *(_row(option, one, OPTION) for option, one in said.items())])
        for option, (about, settings) in reference.made(name).items():
            yield from _block(f"{name}={option}", about, settings)


def _block(title: str, about: Sequence[str], settings: Settings) -> Iterator[str]:
    lines = [title] * bool(title) + [_text(text, "  ", "  ") for text in about]
    lines += [_row(f"{name}={said.get('default', '')}", _may_be(said)) for name, said in settings.items()]
    yield "\n".join(lines)


def _may_be(said: dict[str, str]) -> str:
    """`a, b; what it means`: what is allowed, else the type that any value is taken of."""
    kind, allowed = said.get("type", ""), ", ".join(reference.choices_of(said))
    if not allowed:
        allowed = ", ".join(filter(None, (kind, said.get("allowed"))))
    elif kind.startswith("list"):
        allowed = f"list of {allowed}" + ", or null" * kind.endswith("null")
    elif kind.endswith("null"):
        allowed += ", or null"
    return "; ".join(filter(None, (allowed, said.get("meaning"))))


def _row(left: str, right: str, middle: int = MIDDLE) -> str:
    """Two columns; a left one that is too long has a line of its own."""
    hanging = " " * middle
    if len(left) + 4 > middle:
        return f"{_text(left, '  ', '    ')}\n{_text(right, hanging, hanging)}".rstrip()
    return _text(right, f"  {left}".ljust(middle), hanging).rstrip()


def _text(text: str, first: str = "", later: str = "") -> str:
    """Wrapped to the terminal, words whole."""
    width = max(min(WIDEST, shutil.get_terminal_size().columns), MIDDLE + 20)
    wrap = TextWrapper(width, first, later, break_on_hyphens=False, break_long_words=False)
    return wrap.fill(text) or first
