"""Write docs/code.md: what every file of the package and of scripts/ is, from its docstring.

    python scripts/write_map.py

A file's docstring is the place to fix. tests/project/test_reference.py fails where the page is not what this writes.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "code.md"
INTRODUCTION = """# The code, file by file

<!-- written by scripts/write_map.py (make docs): fix the docstring, not this page -->

**Begin with [walkthrough.py](walkthrough.py)**: the core of the tool as one flat script, to read in ten
minutes, from pictures to the score of a layer with its interval. It uses the pieces below, it runs, and its
numbers equal those of `mllm-probe run`. Four decisions have a page each: what names a cache
([cache-identity.md](design/cache-identity.md)), statements that share their picture's tokens
([packed-heads.md](design/packed-heads.md)), processes that share the work ([claims.md](design/claims.md)), and
conclusions about many layers at once ([max-t.md](design/max-t.md)).

Data flows one way. `data` reads pictures and annotations, `tasks` makes samples and decisions from them; `experiment`
turns a config into a ready experiment. `models` and `extraction` turn its samples into activations in the
`cache`; `fitting` and `probes` turn these and the decisions into trials, `scoring` and `stats` into scores and tests;
`results` are the files of a run, and `report` shows them. `commands` has a file for each command. Imports go down only,
and `tests/project/test_house.py` tests this. [CONTRIBUTING.md](../CONTRIBUTING.md) has the rules,
[extend.md](extend.md) how to add to it.

Options are YAML files in [conf/](../conf) ([commands.md](commands.md#options)), tests are in [tests/](../tests)."""


def page() -> str:
    package = ROOT / "mllm_probe"
    rooms = sorted(path.parent for path in package.glob("*/**/__init__.py"))
    parts = [
        INTRODUCTION,
        section("mllm_probe/", package, "The base of everything else, and the interface for scripts and notebooks."),
    ]
    parts += [section(f"{room.relative_to(ROOT).as_posix()}/", room, said(room / "__init__.py")) for room in rooms]
    parts += [section("scripts/", ROOT / "scripts", "What is run by hand, from the root of the repository.")]
    return "\n\n".join(parts) + "\n"


def section(title: str, folder: Path, about: str) -> str:
    files = [path for path in sorted(folder.glob("*.py")) if not path.name.startswith("__")]
    here = f"../{folder.relative_to(ROOT).as_posix()}"
    rows = [f"| [`{path.stem}`]({here}/{path.name}) | {said(path)} |" for path in files]
    return "\n".join([f"## `{title}`", "", about, "", "| file | what it is |", "| --- | --- |", *rows])


def said(path: Path) -> str:
    """The first sentence of a file's docstring."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) (?=[A-Z`])", text)[0].replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
