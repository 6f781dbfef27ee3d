"""Shares of words against loops, with what is planted, and with words that know nothing."""

from dataclasses import replace

import numpy as np
import pytest

from mllm_probe.results.lenses.lens import Lens
from mllm_probe.spatial.exchanges import among_alike
from mllm_probe.spatial.field import Field
from mllm_probe.spatial.lenses.judged import Judged, weighed
from mllm_probe.spatial.lenses.names import Names
from tests.support.fields import field

BLANK = Lens("run", "cache", "model", "", "nf4", "drawn", "lm.01", "lm", 1, "block", 0.5, "tokens:image", "logit")
WORDS = ("of", "thing0", "thing1", "thing2", "thing3", "a")


def judged(found: Field) -> Judged:
    return Judged(found, Names.of(found.categories, WORDS))


def row(rows: list[Lens], metric: str, tokens: str = "objects", top: int = 1, control: str = "") -> Lens:
    wanted = {"metric": metric, "tokens": tokens, "top": top, "control": control}
    (found,) = [one for one in rows if all(getattr(one, name) == value for name, value in wanted.items())]
    return found


def naming(found: Field) -> np.ndarray:
    """Ids [T, 5]: the first category on a token, then nothing of use."""
    ids = np.zeros((len(found.pictures), 5), int)
    on = found.inside.any(1)
    ids[on, 0] = 1 + found.inside[on].argmax(1)
    return ids


def test_words_of_what_covers_a_token_are_local_all_of_them() -> None:
    found = field(60)
    rows = list(judged(found).rows(naming(found), BLANK))
    assert row(rows, "local").value == 1 and row(rows, "unrelated").value == 0
    assert row(rows, "local").n == found.inside.any(1).sum() and row(rows, "local").n_groups == len(
        np.unique(found.groups[found.inside.any(1)])
    )
    luck, above = row(rows, "local", control="exchanged_pictures"), row(rows, "local_above_chance")
    assert 0.1 < luck.value < 0.6, "another picture shows the same category sometimes"
    assert above.value == pytest.approx(1 - luck.value) and above.low > 0.3
    assert not [one for one in rows if one.tokens == "beside" and one.metric.startswith("local")]
    assert row(rows, "unrelated", "beside").value == 1


def test_shares_are_those_of_a_loop() -> None:
    found, rng = field(40), np.random.default_rng(2)
    ids = rng.integers(0, 6, (len(found.pictures), 5))
    rows = list(judged(found).rows(ids, BLANK))
    for tokens, on in (("objects", found.inside.any(1)), ("beside", ~found.inside.any(1))):
        for top in (1, 5):
            kinds = []
            for t in np.flatnonzero(on):
                named = {int(word) - 1 for word in ids[t, :top] if 1 <= word <= 4}
                here, there = ({c for c in range(4) if cells[t, c]} for cells in (found.inside, found.present))
                kinds.append("local" if named & here else "elsewhere" if named & there else "unrelated")
            for metric in ("local", "elsewhere", "unrelated") if tokens == "objects" else ("elsewhere", "unrelated"):
                mine = row(rows, metric, tokens, top)
                assert mine.value == pytest.approx(kinds.count(metric) / len(kinds)), (tokens, top, metric)
                assert mine.low <= mine.value <= mine.high


def test_words_that_know_nothing_are_at_chance() -> None:
    held = 0
    for seed in range(20):
        found = field(60, seed=seed)
        ids = np.random.default_rng(seed).integers(0, 6, (len(found.pictures), 5))
        above = row(list(judged(found).rows(ids, BLANK)), "local_above_chance")
        held += above.low <= 0 <= above.high
    assert held >= 17


def test_words_that_know_of_objects_alone_are_at_chance() -> None:
    """On every object a word of some object, beside them none: that says nothing of which."""
    found = field(80)
    on = found.inside.any(1)
    ids = np.zeros((len(on), 5), int)
    ids[on, 0] = np.random.default_rng(0).integers(1, 5, on.sum())
    above = row(list(judged(found).rows(ids, BLANK)), "local_above_chance")
    assert above.low <= 0 <= above.high


def test_tokens_count_for_as_many_as_they_stand_for() -> None:
    rng = np.random.default_rng(1)
    values, weights = rng.integers(0, 2, 50).astype(float), rng.random(50) + 0.5
    assert weighed(values, weights).mean() == pytest.approx(np.average(values, weights=weights))
    assert np.array_equal(weighed(values, np.full(50, 2.0)), values)
    found = field(30)
    heavy = replace(found, weights=np.where(found.pictures < 10, 3.0, 1.0))
    rows, on = list(judged(heavy).rows(naming(found) * (found.pictures < 10)[:, None], BLANK)), found.inside.any(1)
    expected = heavy.weights[on & (found.pictures < 10)].sum() / heavy.weights[on].sum()
    assert row(rows, "local").value == pytest.approx(expected)


def test_a_token_gets_what_lies_on_one_of_its_kind_in_another_group() -> None:
    found = field(30)
    found = replace(found, groups=found.pictures // 2)
    source, on = among_alike(found, seed=3), found.inside.any(1)
    assert (source >= 0).all()
    assert (on[source] == on).all() and (found.groups[source] != found.groups).all()
    for picture in range(30):
        for kind in (on, ~on):
            own = source[(found.pictures == picture) & kind]
            assert len(np.unique(found.pictures[own])) <= 1
    assert not np.array_equal(source, among_alike(found, seed=4))
