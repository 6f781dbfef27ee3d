"""A loaded model whose states and attention can be changed: by tails where they are proven, else the plain way."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from mllm_probe.experiment.experiment import Experiment
from mllm_probe.interventions.loop import in_parts
from mllm_probe.interventions.proof import disproved
from mllm_probe.records.protocols import Intervenable, Reporter
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import Key, Site

if TYPE_CHECKING:
    from mllm_probe.models.blueprint import Blueprint

INT8 = "int8"
PROVEN_ON = 4  # statements


def opener(
    experiment: Experiment, words: Sequence[str], samples: Sequence[Sample], reporter: Reporter
) -> Callable[[], Intervenable]:
    """Loads the model when it is first called, proves tails on some of the samples, and says which way is taken.

    Raises ModelError, ConfigError.
    """

    @cache
    def opened() -> Intervenable:
        from mllm_probe.models.hf import load_model
        from mllm_probe.models.loading.device import pick_device
        from mllm_probe.models.tails.engine import Tails
        from mllm_probe.models.tails.plain import Plain

        blueprint, device = experiment.blueprint, pick_device(experiment.device)
        reporter.note(f"loading {experiment.model.label} ({experiment.model.precision}) on {device}")
        model = load_model(blueprint, device)
        model.keep_dequantised()
        for remark in model.remarks:
            reporter.note(remark)
        ids = blueprint.prompter.answers(words)
        tails, plain = Tails(model, blueprint, ids, device), Plain(model, blueprint, ids)
        longest = int(blueprint.survey(samples, [Key(Site("lm"), "last")]).tokens.max())
        why = _why_plain(experiment, model.unshared(longest))
        few = sorted(samples[:PROVEN_ON], key=lambda sample: sample.digests)
        if why := why or disproved(tails, plain, few, experiment.model.dtype):
            plain.plain = why
            reporter.note(f"every intervention is a pass of its own over the whole prompt: {why}")
            return plain
        return tails

    return opened


def lengths_of(blueprint: "Blueprint") -> Callable[[Sequence[Sample]], dict[str, int]]:
    """{uid: tokens of its prompt}, by the processor, which makes as many of a picture as its size asks for."""

    def lengths(samples: Sequence[Sample]) -> dict[str, int]:
        from mllm_probe.models.tails.cut import cut_prompts

        found: dict[str, int] = {}
        for part in in_parts(samples, "cpu"):
            prompts = cut_prompts(blueprint, part, lambda inputs: np.zeros((1, *inputs["input_ids"].shape), np.int64))
            found |= {layout.sample.uid: len(layout.ids) for layout in prompts.layouts}
        return found

    return lengths


def _why_plain(experiment: Experiment, unshared: str | None) -> str:
    if unshared:
        return unshared
    if experiment.anatomy.crossed:
        return "it attends to pictures from outside"
    if experiment.model.precision == INT8:
        return "model.quantization=int8 makes states depend on what else is in a pass"
    return ""
