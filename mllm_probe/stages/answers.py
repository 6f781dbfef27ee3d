"""The model's own answers, layer by layer, as trials: what it says beside what a probe finds. Fits nothing.

At the top they are the zero-shot answers of the checkpoint, below it the logit lens (nostalgebraist 2020).
"""

from collections.abc import Iterator

import numpy as np

from mllm_probe.sites import Key
from mllm_probe.stages.bench import Bench, Trial
from mllm_probe.stages.readout import Source

LENS, ZERO_SHOT = "logit_lens", "zero_shot"
FEATURES = "answer"


def answers(bench: Bench, source: Source) -> Iterator[list[Trial]]:
    """One list of trials a block; those of the top, where it is read, once more as the baseline of no layer."""
    for key in bench.ready.answer_keys:
        logits = source.readout(key).data.rows[:].double().numpy()
        odds = (logits[:, 0] - logits[:, 1]).astype(np.float32)
        yield _trials(bench, Key(key.site, "last"), "", LENS, odds)
        if key.site.layer == bench.ready.anatomy.blocks["lm"]:
            yield _trials(bench, None, ZERO_SHOT, FEATURES, odds)


def _trials(bench: Bench, key: Key | None, control: str, probe: str, odds: np.ndarray) -> list[Trial]:
    """Log-odds need no seed, but validation rows differ by it."""
    facts = {"converged": 1.0, "log_odds": 1.0, "answer": 1.0}
    return [Trial(key, control, probe, seed, odds, facts, {}, FEATURES) for seed in bench.seeds]
