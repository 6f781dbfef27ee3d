"""The loop over parts, with an engine whose outcomes are sums by hand: killed, shared and resumed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mllm_probe.errors import PendingError
from mllm_probe.files.store_paths import PartPaths
from mllm_probe.interventions.loop import Share, in_parts, outcomes
from mllm_probe.records.interventions import ADD, Intervention, Outcomes
from mllm_probe.records.samples import Sample

WHOLE = Share()
CHANGES = [Intervention(ADD, "last", payload=c) for c in range(5)]


class Quiet:
    def progress(self, *_told: Any) -> None: ...


class Counted:
    """Answers d = number of a prompt + 100 times the payload, and dies after some calls."""

    def __init__(self, samples: Sequence[Sample], dies_after: int = 1_000) -> None:
        self._numbers = {sample.uid: n for n, sample in enumerate(samples)}
        self._left, self.calls, self.asked = dies_after, 0, 0

    def outcomes(self, samples: Sequence[Sample], interventions: Sequence[Intervention]) -> Outcomes:
        if self._left == self.calls:
            raise KeyboardInterrupt
        self.calls += 1
        self.asked += len(samples) * len(interventions)
        clean = np.asarray([self._numbers[sample.uid] for sample in samples], np.float32)
        d = clean + 100 * np.asarray([[one.payload] for one in interventions], np.float32)
        return Outcomes(tuple(sample.uid for sample in samples), clean, clean / 100, d, d / 1_000, -d)


def run(engine: Counted, parts: Any, place: Path, share: Share = WHOLE) -> Outcomes:
    return outcomes(lambda: engine, parts, CHANGES, PartPaths(place), share, Quiet())  # type: ignore[arg-type,return-value]


@pytest.fixture
def parts(entailment: Any) -> list[list[Sample]]:
    mixed = [sample for start in range(5) for sample in entailment.samples[start:48:5]]
    found = in_parts(mixed, "cpu")
    assert len(found) >= 3
    return found


def right(found: Outcomes, parts: Sequence[Sequence[Sample]], order: Sequence[Sample]) -> bool:
    numbers = {sample.uid: n for n, sample in enumerate(order)}
    rows = [numbers[sample.uid] for part in parts for sample in part]
    wanted = np.asarray([[n + 100 * c for n in rows] for c in range(len(CHANGES))])
    return np.array_equal(found.d, wanted) and np.array_equal(found.clean_d, rows) and np.array_equal(found.kl, -wanted)


def test_killed_it_goes_on_with_the_part_that_is_missing(parts: Any, entailment: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Counted(entailment.samples, dies_after=1), parts, tmp_path)
    again = Counted(entailment.samples)
    assert right(run(again, parts, tmp_path), parts, entailment.samples)
    assert again.calls == len(parts) - 1
    kept = Counted(entailment.samples, dies_after=0)
    assert right(run(kept, parts, tmp_path), parts, entailment.samples), "a finished loop asks no engine"


def test_shares_wait_for_each_other_and_give_the_whole(parts: Any, entailment: Any, tmp_path: Path) -> None:
    one, other = Counted(entailment.samples), Counted(entailment.samples)
    with pytest.raises(PendingError, match=f"{len(parts)} of {2 * len(parts)} parts"):
        run(one, parts, tmp_path, Share(0, 2))
    assert right(run(other, parts, tmp_path, Share(1, 2)), parts, entailment.samples)
    assert one.asked + other.asked == 48 * len(CHANGES), "nothing is done twice"


def test_prompts_about_one_picture_are_in_one_part(parts: Any, entailment: Any) -> None:
    seen = [{sample.digests for sample in part} for part in parts]
    assert sum(map(len, seen)) == len(set.union(*seen))
    assert sorted(s.uid for part in parts for s in part) == sorted(s.uid for s in entailment.samples[:48])
