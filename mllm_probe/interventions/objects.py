"""Which picture tokens show the object that a statement is about. Knows masks and no model."""

from dataclasses import replace

import numpy as np

from mllm_probe.errors import DataError
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.interventions.tested import Tested
from mllm_probe.records.grids import HALF
from mllm_probe.records.samples import Picked


def on_objects(experiment: Experiment, asked: Tested) -> Tested:
    """The statements whose object is in the picture and seen on its token grid; their samples pick its tokens, those
    that its mask covers by half, or where it is smaller the one that it covers most; one that covers all tokens leaves
    nothing to compare with. Raises DataError, ModelError."""
    category = {one.sample: one.head for one in experiment.examples.decisions if one.head and one.label == 1}
    if not category:
        raise DataError(
            f"no statement of task={experiment.task.name} is about one category of objects, so it has no tokens of an "
            "object; take task=objects, or edges that begin at image"
        )
    places, found = experiment.places, []
    for sample in asked.samples:
        picture = places.pictures[sample.digests[0]]
        shares = places.shares(picture).get(category.get(sample.uid) or "")
        if shares is not None and np.nanmax(shares) > 0:
            tokens = np.flatnonzero(shares >= HALF)
            own = tokens if len(tokens) else np.asarray([np.nanargmax(shares)])
            if len(own) < len(shares):
                found.append(replace(sample, picked=Picked(tuple(own.tolist()))))
    if not found:
        raise DataError(
            f"no statement of task={experiment.task.name} about a test picture names an object that its tokens show"
        )
    return replace(asked, samples=tuple(found))
