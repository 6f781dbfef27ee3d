"""A finished reading by lenses in words and a few numbers."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mllm_probe.experiment.experiment import Experiment
from mllm_probe.results.lenses.lens import ABOVE, EXCHANGED, LOCAL, OBJECTS, PRESENCE, Lens
from mllm_probe.spatial.lenses.nearest import Request


def facts(experiment: Experiment, request: Request, rows: Sequence[Lens]) -> dict[str, Any]:
    """What summary.json holds."""
    field, samples = request.field, experiment.examples.samples
    pictures = np.unique(field.pictures[request.shown]).tolist()
    paths = {samples[number].digests[0]: str(samples[number].images[0]) for number in pictures}
    return {
        **{name: getattr(rows[0], name) for name in ("run", "model", "dataset")},
        "cache": experiment.identity.digest,
        "task": experiment.task.name,
        "lenses": request.config.lens,
        "pictures": len(samples),
        "tokens": len(field.pictures),
        "categories": list(field.categories),
        "shown": paths,
        "said": list(said(rows)),
        "provenance": experiment.store.provenance(),
    }


def said(rows: Sequence[Lens]) -> Iterator[str]:
    """Where each lens is local most often, and how well confidence tells what is there."""
    for lens in dict.fromkeys(row.lens for row in rows):
        own = [row for row in rows if (row.lens, row.tokens, row.top, row.metric) == (lens, OBJECTS, 1, LOCAL)]
        real = [row for row in own if not row.control]
        if not real:
            yield f"{lens}: too few pictures with tokens on objects to tell shares"
            continue
        above = [row.site for row in rows if _surely_above(row, lens)]
        if not above:
            yield f"{lens}: at no layer is the nearest word of a token on an object surely its name beyond chance"
            continue
        best = max(real, key=lambda row: row.value or 0)
        luck = next(row for row in own if row.site == best.site and row.control == EXCHANGED)
        yield (
            f"{lens}: the nearest word of a token on an object names that object most often at {best.site}, "
            f"{_share(best)} of tokens; by chance {100 * (luck.value or 0):.1f} %, and surely more often at "
            f"{len(above)} of {len(real)} sites, each by its own interval"
        )
    for row in rows:
        if row.metric == PRESENCE and not row.site and not row.control:
            ends = "" if row.low is None else f" [{row.low:.3f}, {row.high:.3f}]"
            yield f"{row.lens}: confidence tells what is in the picture with an AUROC of {row.value:.3f}{ends}"


def _surely_above(row: Lens, lens: str) -> bool:
    asked = (row.lens, row.metric, row.tokens, row.top, row.control) == (lens, ABOVE[LOCAL], OBJECTS, 1, "")
    return asked and row.low is not None and row.low > 0


def _share(row: Lens) -> str:
    ends = "" if row.low is None or row.high is None else f" [{100 * row.low:.1f}, {100 * row.high:.1f}]"
    return f"{100 * (row.value or 0):.1f} %{ends}"
