"""Pairs from drawn scenes and from decisions written by hand; conditions counted by hand."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mllm_probe.data.coco import Selection
from mllm_probe.data.scenes import Scenes
from mllm_probe.errors import ConfigError, DataError
from mllm_probe.files.digests import Digests
from mllm_probe.interventions.patching import (
    CLOSE,
    NO_OTHER,
    NO_WORD,
    TAKEN,
    UNEQUAL,
    Pair,
    Pairs,
    Patching,
    pairs_of,
    word_pairs_of,
)
from mllm_probe.records.interventions import REPLACE
from mllm_probe.records.samples import Decision, Examples, Sample
from mllm_probe.records.sites import Anatomy, Site
from mllm_probe.tasks.entailment import Entailment
from mllm_probe.tasks.objects import Objects
from mllm_probe.tasks.splits import Folds
from tests.support.runs import Run

ANATOMY = Anatomy({"vision": 3, "lm": 4}, {"vision": 4, "connector": 8, "lm": 8}, True, 99, {"lm": ("attn", "mlp")})


def examples(*asked: tuple[str, str, int], **more: Any) -> Examples:
    """Of (text, picture, label); a sample is called `text/picture`."""
    samples = [Sample(f"{text}/{picture}", (), (picture,), text, {}) for text, picture, _ in asked]
    decisions = [
        Decision(f"d{i}", f"{text}/{picture}", "caption", label, picture, **more)
        for i, (text, picture, label) in enumerate(asked)
    ]
    return Examples(tuple(samples), tuple(decisions), {})


def lengths(found: Examples, **odd: int) -> dict[str, int]:
    return {sample.uid: odd.get(sample.uid.replace("/", "_"), 9) for sample in found.samples}


@pytest.mark.parametrize("task", [Entailment(), Objects()], ids=["entailment", "objects"])
def test_pairs_of_a_task_have_one_text_and_two_pictures_that_no_other_pair_has(task: Any, tmp_path: Path) -> None:
    collection = Scenes(120).load(tmp_path, Selection(), Digests(tmp_path / "digests.json"))
    found = task.examples(collection, Folds())
    sample = {one.uid: one for one in found.samples}
    label, group = ({d.sample: getattr(d, name) for d in found.decisions} for name in ("label", "group"))
    length = {uid: 9 + (int(uid, 16) % 2) for uid in sample}
    pairs = pairs_of(found, length)
    assert len(pairs.pairs) > 20
    for pair in pairs.pairs:
        clean, corrupt = sample[pair.clean], sample[pair.corrupt]
        assert clean.text == corrupt.text and clean.digests != corrupt.digests
        assert (label[pair.clean], label[pair.corrupt]) == (1, 0) and length[pair.clean] == length[pair.corrupt]
    used = Counter(group[uid] for pair in pairs.pairs for uid in (pair.clean, pair.corrupt))
    assert set(used.values()) == {1} and len({pair.group for pair in pairs.pairs}) == len(pairs.pairs)
    asked = sum(label[uid] for uid in sample)
    assert len(pairs.pairs) + sum(pairs.dropped.values()) == asked and pairs.dropped[UNEQUAL] > 0
    assert pairs == pairs_of(Examples(found.samples[::-1], found.decisions[::-1], found.folds), length)


def test_what_has_no_partner_is_counted_by_the_reason() -> None:
    asked = examples(("a", "1", 1), ("a", "2", 0), ("b", "3", 1), ("b", "4", 0), ("c", "5", 1), ("d", "6", 0))
    found = pairs_of(asked, lengths(asked, b_3=10))
    assert [(pair.clean, pair.corrupt) for pair in found.pairs] == [("a/1", "a/2")]
    assert found.dropped == {UNEQUAL: 1, NO_OTHER: 1}
    taken = examples(("a", "1", 1), ("a", "2", 0), ("b", "1", 0), ("b", "2", 1))
    assert len(pairs_of(taken, lengths(taken)).pairs) == 1 and pairs_of(taken, lengths(taken)).dropped == {TAKEN: 1}
    alike = examples(("a", "1", 1), ("a", "2", 0))
    near = tuple(replace(decision, group="both") for decision in alike.decisions)
    alike = replace(alike, decisions=near)
    assert pairs_of(alike, lengths(alike)).dropped == {NO_OTHER: 1}


def test_a_text_with_one_partner_chooses_before_one_with_several() -> None:
    asked = examples(*(("many", str(i), i % 2) for i in range(10)), ("few", "0", 1), ("few", "1", 0))
    found = pairs_of(asked, lengths(asked))
    assert ("few/0", "few/1") in [(pair.clean, pair.corrupt) for pair in found.pairs] and len(found.pairs) == 5


def test_other_wordings_given_labels_and_samples_that_ask_twice_are_left_alone() -> None:
    for more in ({"template": "other"}, {"given": True}, {"side": 1}):
        asked = examples(("a", "1", 1), ("a", "2", 0), **more)
        assert pairs_of(asked, lengths(asked)) == Pairs(())
    asked = examples(("a", "1", 1), ("a", "2", 0), ("a", "2", 1))
    assert pairs_of(asked, lengths(asked)) == Pairs((), {NO_OTHER: 1})
    asked = examples(("a", "1", 1), ("a", "2", 0))
    assert pairs_of(asked, {"a/1": 9}) == Pairs((), {NO_OTHER: 1})  # the other is no test sample
    with pytest.raises(DataError, match="the labels are of kind classes"):
        pairs_of(Examples(asked.samples, asked.decisions, {}, kind="classes"), lengths(asked))


def test_pairs_that_the_model_hardly_tells_apart_or_has_the_wrong_way_round_are_dropped() -> None:
    pairs = Pairs(tuple(Pair(f"c{i}", f"x{i}", str(i)) for i in range(4)), {UNEQUAL: 2})
    d = {"c0": 2.0, "x0": 1.0, "c1": 1.9, "x1": 1.0, "c2": -3.0, "x2": 3.0, "c3": -1.0, "x3": -9.0}
    kept = pairs.apart(d, 1.0)
    assert [pair.clean for pair in kept.pairs] == ["c0", "c3"] and kept.dropped == {UNEQUAL: 2, CLOSE: 2}
    assert pairs.apart(dict.fromkeys(d, 0.0) | {f"c{i}": 5.0 for i in range(4)}, 1.0) == pairs


def test_states_go_from_each_prompt_of_a_pair_into_the_other() -> None:
    pairs = [Pair("c0", "x0", "0"), Pair("c1", "x1", "1")]
    sites = [Site("lm", 0), Site("lm", 2, "attn"), Site("lm", 4), Site("lm", 4, "norm"), Site("vision", 1)]
    found = list(Patching(spans=["last", "mark:caption"]).conditions(ANATOMY, sites, pairs))
    assert len(found) == 2 * 2 * 3
    for condition, change in found:
        donors = {"denoise": {"x0": "c0", "x1": "c1"}, "noise": {"c0": "x0", "c1": "x1"}}[condition.direction]
        assert (change.kind, change.payload, change.span) == (REPLACE, donors, condition.what)
        assert str(change.site) == condition.site and condition.depth == change.site.layer / 4
        assert condition.first == condition.last == condition.layer == change.site.layer
    assert {condition.site for condition, _ in found} == {"lm.00", "lm.02.attn", "lm.04"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"spans": ["picture"]}, "intervention.spans names the span 'picture', which is unknown"),
        ({"spans": []}, "intervention.spans is empty"),
        ({"directions": ["back"]}, "intervention.directions names 'back', which is unknown; choose one of: denoise"),
        ({"directions": []}, "intervention.directions is empty"),
        ({"min_gap": 0}, "intervention.min_gap=0 must be above 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Patching(**settings)
    assert str(error.value).startswith(said)


def test_sites_that_the_model_lacks_are_refused() -> None:
    for site, said in {
        Site("lm", 5): "the site lm.05 does not exist in this model, whose language model has 4 blocks with the parts "
        "block, attn, mlp",
        Site("vision", 1): "layers names no site of the language model",
    }.items():
        with pytest.raises(ConfigError) as error:
            next(Patching().conditions(ANATOMY, [site], []))
        assert str(error.value).startswith(said)


def test_pairs_of_one_word_are_about_one_picture_and_as_long() -> None:
    asked = examples(
        ("a red cat", "1", 1),
        ("a blue cat", "1", 0),
        ("a blue dog", "1", 0),
        ("a red dog", "1", 1),
        ("a red cat", "2", 1),
        ("a cat", "2", 0),
        ("a red cat", "3", 1),
        ("a long cat", "3", 0),
    )
    found = word_pairs_of(asked, lengths(asked, **{"a long cat_3": 10}))
    (pair,) = found.pairs
    assert (pair.clean, pair.corrupt) in {("a red cat/1", "a blue cat/1"), ("a red dog/1", "a blue dog/1")}
    assert found.dropped == {TAKEN: 1, NO_WORD: 1, UNEQUAL: 1}
    backwards = Examples(asked.samples[::-1], asked.decisions[::-1], {})
    assert word_pairs_of(backwards, lengths(asked, **{"a long cat_3": 10})).pairs == found.pairs
    with pytest.raises(DataError, match="labels are of kind classes"):
        word_pairs_of(replace(asked, kind="classes"), lengths(asked))
    with pytest.raises(ConfigError, match="intervention.differ=text is unknown"):
        Patching(differ="text")


def test_another_word_is_all_at_the_embeddings_and_all_at_the_end_is_at_the_last_token(
    probe: Run, tmp_path: Path
) -> None:
    """The picture is the same: its states bring nothing, exactly; the word's bring all before the first block."""
    spans = 'intervention.spans=[image,last,"mark:object"]'
    words = ("intervention=patching", "intervention.differ=word", "task=objects", spans, "layers.stride=12")
    more = ("dataset.pictures=200", "intervene.pictures=null", "intervene.least=5", "sweep.draws=50")
    code, _, err = probe("intervene", *words, *more, "hydra.run.dir=word")
    assert code == 0, err
    table = pd.read_csv(tmp_path / "word" / "effects.csv", keep_default_na=False)
    value = {(row.what, row.site): float(row.value) for row in table.itertuples()}
    assert value["image", "lm.00"] == value["image", "lm.12"] == 0
    assert value["mark:object", "lm.00"] == pytest.approx(1, abs=1e-4)
    assert value["last", "lm.00"] == 0 and value["last", "lm.12"] == pytest.approx(1, abs=1e-4)
