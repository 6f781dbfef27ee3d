"""Which scores of a sweep can be no other number, whatever the model: found in the stored rows, not in a task's name.

Such scores are marked in scores.csv and tests.csv, named once in summary.json, and evidence of nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from mllm_probe.experiment.experiment import FLOORS
from mllm_probe.fitting.baseline_trials import QUESTION_ONLY
from mllm_probe.fitting.readout import Readout, Source, blocks
from mllm_probe.fitting.trials import Probing
from mllm_probe.records.problems import Rows
from mllm_probe.records.score import BY_DESIGN, Score
from mllm_probe.records.sites import Key

Place = tuple[str, Key | None]  # control (empty: the real run) and key (None: a baseline)

CONSTANT = "every decision has the same input"
PICTURE = "all decisions about a picture have the same input, and every picture has the labels in equal shares"
ALIKE = "decisions with the same input have the labels in equal shares"


@dataclass(frozen=True)
class ByDesign:
    """`found`: why each control and key that was read knows nothing, None where it may know something."""

    found: Mapping[Place, str | None]

    @classmethod
    def of(cls, probing: Probing, source: Source) -> "ByDesign":
        """Reads the test rows of every key, of the whole spans only where their first tokens do not tell."""
        texts, test = np.asarray(probing.texts), probing.test
        asked = nothing_to_know(texts[test], probing.y[test], probing.groups[test])
        found: dict[Place, str | None] = {(QUESTION_ONLY, None): asked}
        for each in (source, *map(Source, probing.experiment.variants)):
            for key in each.experiment.keys:
                if each.holds(key):
                    found[each.experiment.control, key] = _at(probing, each.readout(key))
        return cls(found)

    def has(self, control: str, key: Key | None) -> bool:
        return self.found.get((control, key)) is not None

    def names(self) -> dict[str, str]:
        """{what to call it: why}: a position, a control, or one of either where the others know something.

        Where the real run can know nothing, nothing more is said of its controls.
        """
        said: dict[str, str] = {}
        for control in dict.fromkeys(control for control, _ in self.found):
            own = [key for name, key in self.found if name == control and not self._implied(control, key)]
            if control and own and all(self.has(control, key) for key in own):
                said[control] = str(self.found[control, own[0]])
                continue
            for position in dict.fromkeys(key.position for key in own if key):
                here = [key for key in own if key and key.position == position]
                whole = all(self.has(control, key) for key in here)
                for key in here:
                    if self.has(control, key):
                        place = position if whole else str(key)
                        said[f"{control} at {place}" if control else place] = str(self.found[control, key])
        return said

    def marked(self, scores: Sequence[Score], metric: str) -> list[Score]:
        """The headline rows over seeds that these are, with the family `by design` and without an interval: the value
        is known."""
        places = {(control, str(key or "")) for (control, key), why in self.found.items() if why}
        return [
            replace(row, family=BY_DESIGN, low=None, high=None)
            if row.seed == "all"
            and row.metric == metric
            and row.features in ("single", "words")
            and not row.subset
            and (row.control, f"{row.site}@{row.position}" if row.site else "") in places
            else row
            for row in scores
        ]

    def _implied(self, control: str, key: Key | None) -> bool:
        return bool(control) and control not in FLOORS and self.has("", key)


def _at(probing: Probing, readout: Readout) -> str | None:
    """Of the test decisions that a key is read for."""
    tested = np.flatnonzero(probing.test[readout.who])
    rows, bounds = readout.data.rows, readout.data.bounds
    if bounds is None:
        return _why(probing, readout, tested, _single(rows, tested))
    first = (rows[i : i + 1].float().numpy() for i in bounds[tested].tolist())
    if _why(probing, readout, tested, first) is None:
        return None
    whole = (rows[bounds[i] : bounds[i + 1]].float().numpy() for i in tested.tolist())
    return _why(probing, readout, tested, whole)


def _single(rows: Rows, tested: np.ndarray) -> Iterator[np.ndarray]:
    """These rows, in ascending order; many are read at a time, which costs little more than one."""
    start = 0
    for block in blocks(rows):
        end = start + len(block)
        yield from block.float().numpy()[tested[(tested >= start) & (tested < end)] - start]
        start = end


def _why(probing: Probing, readout: Readout, tested: np.ndarray, read: Iterable[np.ndarray]) -> str | None:
    """Rows that one output of a probe reads are alike where their numbers are equal."""
    heads = [0] * len(tested) if readout.heads is None else readout.heads[tested].tolist()
    seen: dict[tuple[int, bytes], int] = {}
    codes = [
        seen.setdefault((head, blake2b(state.tobytes()).digest()), len(seen))
        for head, state in zip(heads, read, strict=True)
    ]
    who = readout.who[tested]
    return nothing_to_know(np.asarray(codes), probing.y[who], probing.groups[who])


def nothing_to_know(inputs: np.ndarray, y: np.ndarray, groups: np.ndarray) -> str | None:
    """Why no probe can beat the best constant answer, None where one could.

    inputs [N] numbers what is read: equal numbers are equal states, of which any probe says the same. Where each holds
    the labels y [N] in the shares of all N, the score of balanced labels is exactly that of guessing. groups [N] are
    the pictures, for the words.
    """
    _, code, sizes = np.unique(inputs, return_inverse=True, return_counts=True)
    _, label, totals = np.unique(y, return_inverse=True, return_counts=True)
    counts = np.zeros((len(sizes), len(totals)), int)
    np.add.at(counts, (code, label), 1)
    if len(totals) < 2 or (counts * len(y) != sizes[:, None] * totals).any():
        return None
    if len(sizes) == 1:
        return CONSTANT
    within = len(np.unique(np.stack([code, np.unique(groups, return_inverse=True)[1]]), axis=1).T) == len(sizes)
    return PICTURE if within else ALIKE
