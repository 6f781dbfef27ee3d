"""What a study of two tasks ends with: its answer in words. Judges nothing: study.json has the statements."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from mllm_probe.records import units
from mllm_probe.report.terminal.printing import screen

Statement = Mapping[str, Any]
QUESTION = "Do middle layers encode the whole picture better than the top, while single objects stay readable?"
POOLED, MACRO = "over all decisions together", "as the mean over categories"
MARKS = {"holds": "[bold green]✓ holds[/]", "does not hold": "[bold red]✗ does not hold[/]"}
OPEN = "[bold yellow]? undecided[/]"


def headline_said(one: Mapping[str, Any]) -> str:
    """A sentence of `study_headline`, which names both where both are there."""
    kinds = {"pooled": POOLED, "macro": MACRO} if "macro" in one else {"pooled": ""}
    told = []
    for name, how in kinds.items():
        score = units.value(one[name]["value"], one[name]["low"], one[name]["high"], one["metric"])
        told.append(f"{score} {how}".rstrip())
    where = f"{one['task']} at {one['position']}, {one['site']} (chosen on validation)"
    return f"{where}: {units.named(one['metric'])} {', '.join(told)}"


def print_study(study: Mapping[str, Any], console: Console | None = None) -> None:
    """The question, what each task scores, then what became of each hypothesis and why."""
    console, statements = console or screen(), study["statements"]
    console.print(f"[bold]{QUESTION}[/]", highlight=False)
    for one in study.get("headlines", ()):
        console.print(Padding(escape(headline_said(one)), (0, 0, 0, 2)), highlight=False)
    for one in statements:
        mark = MARKS.get(one["verdict"], OPEN)
        console.print(Padding(f"{one['name']} {mark}: {escape(one['claim'])}", (0, 0, 0, 2)), highlight=False)
        console.print(Padding(f"[dim]{escape(one['sentence'])}[/]", (0, 0, 0, 5)), highlight=False)
