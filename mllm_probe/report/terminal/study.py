"""What a study of two tasks says in words: the answer to each question, then what became of the hypotheses. Judges
nothing: study.json has the statements, tests.csv what the answers stand on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from mllm_probe.records import units
from mllm_probe.report.tables.findings import Reading
from mllm_probe.report.terminal.printing import screen

Statement = Mapping[str, Any]
QUESTION = "Do middle layers encode the whole picture better than the top, while single objects stay readable?"
NEXT = (
    "H4, that global meaning is read in the middle layers and used there, is tested by "
    "mllm-probe intervene intervention=knockout probe_run=FOLDER, the folder of this study"
)
WHERE = (
    "H5, that local meaning turns global, is tested by mllm-probe run task=regions; a study with regions_run=FOLDER, "
    "the folder of that run, tells it"
)
KINDS = "Global", "Local"
ASKED = {"entailment": "does this caption describe this picture?", "objects": "is this object there?"}
POOLED, MACRO = "over all decisions together", "as the mean over categories"
MARKS = {"holds": "[bold green]✓ holds[/]", "does not hold": "[bold red]✗ does not hold[/]"}
OPEN = "[bold yellow]? undecided[/]"


def answered(readings: Sequence[Reading | None]) -> Iterator[str]:
    """The answer to the question of each task, the global one first; None where no layer was chosen."""
    for kind, reading in zip(KINDS, readings, strict=True):
        if reading is not None:
            task = str(reading.scores.task.iloc[0])
            yield f"{kind} meaning ({ASKED.get(task, task)}) {reading.plain}"


def print_answers(readings: Sequence[Reading | None], console: Console | None = None) -> None:
    console = console or screen()
    for line in answered(readings):
        console.print(f"[bold]{escape(line)}[/]".replace("\u00a0", " "), highlight=False)


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
    """The question, what each task scores, then what became of each hypothesis and why, and what tests the next."""
    console, statements = console or screen(), study["statements"]
    console.print(f"[bold]{QUESTION}[/]", highlight=False)
    for one in study.get("headlines", ()):
        console.print(Padding(escape(headline_said(one)), (0, 0, 0, 2)), highlight=False)
    for one in statements:
        mark = MARKS.get(one["verdict"], OPEN)
        console.print(Padding(f"{one['name']} {mark}: {escape(one['claim'])}", (0, 0, 0, 2)), highlight=False)
        console.print(Padding(f"[dim]{escape(one['sentence'])}[/]", (0, 0, 0, 5)), highlight=False)
    for line in following(statements):
        console.print(Padding(f"[dim]{escape(line)}[/]", (0, 0, 0, 2)), highlight=False)


def following(statements: Sequence[Statement]) -> list[str]:
    """What tests the hypotheses that a study has not judged."""
    judged = {one["name"] for one in statements}
    return [line for name, line in (("H4", NEXT), ("H5", WHERE)) if statements and name not in judged]
