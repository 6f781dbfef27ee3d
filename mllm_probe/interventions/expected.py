"""What a sweep of interventions will take, said before a weight is loaded: roughly, by its arithmetic."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mllm_probe.extraction.estimate import EFFICIENCY, duration, matrix_rate
from mllm_probe.models.tails.changes import at_last_alone, first_block, reaches_head
from mllm_probe.records.interventions import Intervention
from mllm_probe.records.samples import Sample

if TYPE_CHECKING:
    from mllm_probe.models.blueprint import Blueprint


def expected(
    blueprint: "Blueprint", samples: Sequence[Sample], interventions: Sequence[Intervention], device: str
) -> str:
    """About how long, where tails suffice: tokens behind the pictures, and the pictures' own where these are changed,
    from the first block that is."""
    blocks = blueprint.anatomy.blocks["lm"]
    tails = [len(tail.ids) for tail in blueprint.prompter.tails(samples)]
    heads = len({sample.digests for sample in samples}) * blueprint.survey(samples[:1], []).picture_tokens

    def tokens(one: Intervention) -> float:
        text = len(tails) if at_last_alone(one) else sum(tails)
        return (text + heads * reaches_head(one)) * max(0, blocks + 1 - first_block(one)) / blocks

    work = 2 * blueprint.parameters["lm"] * (sum(map(tokens, interventions)) + heads + sum(tails))
    return duration(work / (EFFICIENCY * matrix_rate(device, blueprint.settings.dtype)))
