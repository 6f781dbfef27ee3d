"""What statements attend to in words and a few numbers."""

from collections.abc import Iterator, Sequence
from typing import Any

from mllm_probe.experiment.experiment import Experiment
from mllm_probe.results.lenses.attention import (
    ABOVE,
    AREA,
    LAST,
    OBJECT,
    OWN,
    PICTURE,
    RELATIVE,
    SPANS,
    STATEMENT,
    Attention,
    Sink,
)
from mllm_probe.spatial.lenses.asked import Statements

CALLED = {STATEMENT: "the statement's tokens", LAST: "the last token"}
NOT_USE = (
    "Attention is not use: a token may be read and change nothing. Whether an answer depends on it is what "
    "`mllm-probe intervene` measures"
)


def facts_of(
    experiment: Experiment, statements: Statements, rows: Sequence[Attention], sinks: Sequence[Sink], neutral: str
) -> dict[str, Any]:
    """What summary.json holds."""
    return {
        **{name: getattr(rows[0], name) for name in ("run", "model", "dataset", "task")},
        "cache": experiment.identity.digest,
        "lenses": ["attention"],
        "statements": len(statements.samples),
        "pictures": len(statements.neutral),
        "on_objects": sum(one is not None for one in statements.objects),
        "neutral": neutral,
        "said": list(said_of(rows, sinks)),
    }


def said_of(rows: Sequence[Attention], sinks: Sequence[Sink]) -> Iterator[str]:
    """Where each span looks at the picture, and at its object, most."""
    own = [row for row in rows if not row.control and row.head is None]
    for span in SPANS:
        mine = [row for row in own if row.position == span]
        most = max((row for row in mine if row.metric == PICTURE), key=lambda row: row.value or 0)
        yield f"{CALLED[span]}: attention on the picture is largest at {most.site}, {_share(most)}"
        for name in (OWN, RELATIVE):
            yield from _on_object(mine, name, next((row for row in own if row.metric == AREA), None))
    if strongest := max((one for one in sinks if not one.control), key=lambda one: one.mass, default=None):
        yield (
            f"the strongest sink is {strongest.sink}{f' ({strongest.token})' if strongest.token else ''}, which draws "
            f"{100 * strongest.mass:.1f} % of the attention of {CALLED[strongest.position]} at {strongest.site}"
        )
    yield NOT_USE


def _on_object(rows: Sequence[Attention], name: str, area: Attention | None) -> Iterator[str]:
    mass = [row for row in rows if row.metric == OBJECT and row.kind == name]
    if not mass or area is None:
        return
    best = max(mass, key=lambda row: row.value or 0)
    above = [row for row in rows if row.metric == ABOVE and row.kind == name]
    surely = sum(row.low is not None and row.low > 0 for row in above)
    way = "relative attention" if name == RELATIVE else "attention"
    yield (
        f"{CALLED[best.position]}: of the {way} on the picture {_share(best)} lies on the object at {best.site}, where "
        f"that is most; the object covers {_share(area)}, and more than that lies on it surely in {surely} of "
        f"{len(above)} blocks, each by its own interval"
    )


def _share(row: Attention) -> str:
    ends = "" if row.low is None or row.high is None else f" [{100 * row.low:.1f}, {100 * row.high:.1f}]"
    return f"{100 * (row.value or 0):.1f} %{ends}"
