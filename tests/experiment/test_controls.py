"""Controls show the model something else and leave alone what is scored; each is at chance, or says it is missing."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from mllm_probe.data.pictures import write_blank
from mllm_probe.errors import DataError
from mllm_probe.extraction.taps import read_states
from mllm_probe.models.hf import HFModel
from mllm_probe.records.batches import Batch
from mllm_probe.records.samples import Examples
from mllm_probe.records.sites import ANSWER, Key, Site
from mllm_probe.results.score_file import load_scores
from mllm_probe.tasks.controls import blank_picture, shuffled_picture, without_picture
from tests.support.runs import Run

FLOORS = ("vision_only", "connector_only")
DRAWS = ("random_weights", "random_weights_2")
LAYERED = ("text_only", "blank_picture", "shuffled_picture", *DRAWS)


def scored(examples: Examples) -> list[tuple[object, ...]]:
    texts = {sample.uid: (sample.text, dict(sample.marks)) for sample in examples.samples}
    return [(d.uid, d.label, d.group, d.pair, d.type, texts[d.sample]) for d in examples.decisions]


def test_what_is_scored_stays_and_what_is_shown_changes(entailment: Examples) -> None:
    for change in (without_picture(entailment), shuffled_picture(entailment, 0)):
        assert scored(change) == scored(entailment) and change.folds == entailment.folds
    assert all(sample.images == sample.digests == () for sample in without_picture(entailment).samples)


def test_every_picture_of_a_fold_serves_another_one(entailment: Examples) -> None:
    before = {sample.uid: sample.digests[0] for sample in entailment.samples}
    shuffled = shuffled_picture(entailment, 0)
    after = {sample.uid: sample.digests[0] for sample in shuffled.samples}
    moved = {(before[a.sample], after[b.sample]) for a, b in zip(entailment.decisions, shuffled.decisions, strict=True)}
    assert all(mine != other for mine, other in moved)
    assert all(entailment.folds[mine] == entailment.folds[other] for mine, other in moved)
    assert max(Counter(other for _, other in moved).values()) == 1 == max(Counter(mine for mine, _ in moved).values())
    assert shuffled_picture(entailment, 1) != shuffled


def test_a_lone_picture_cannot_be_exchanged(entailment: Examples) -> None:
    alone = {group: i for i, group in enumerate(entailment.folds)}
    lonely = Examples(entailment.samples, entailment.decisions, alone)
    with pytest.raises(DataError, match=r"needs two groups of pictures in every fold, and fold \d+ has 1"):
        shuffled_picture(lonely, 0)


def test_a_blank_is_as_large_as_what_it_stands_in_for(entailment: Examples, tmp_path: Path) -> None:
    Image.new("L", (31, 17), 3).save(tmp_path / "narrow.png")
    made = write_blank(tmp_path / "narrow.png", tmp_path / "blank")
    with Image.open(made) as image:
        assert image.size == (31, 17) and image.mode == "RGB" and image.getcolors() == [(31 * 17, (127, 127, 127))]
    blank = blank_picture(entailment, lambda _: (made, "grey"))
    assert scored(blank) == scored(entailment)
    assert {sample.digests for sample in blank.samples} == {("grey",)}


@torch.inference_mode()
def test_a_prompt_without_a_picture_is_read_where_its_text_stands(model: HFModel, entailment: Examples) -> None:
    bare = without_picture(entailment).samples[:3]
    keys = [Key.parse(name) for name in ("lm.03@last", "lm.03@mean_text", "lm.03@mark:caption")]
    together = read_states(model, model.collate(bare, keys), keys, torch.float32)
    tokenizer = model._blueprint.processor.tokenizer
    for i, sample in enumerate(bare):
        text = f"USER: {sample.text} ASSISTANT:"
        found = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
        states = model._model(input_ids=found["input_ids"], output_hidden_states=True).hidden_states[3][0]
        start, stop = (text.index(sample.text) + place for place in (0, len(sample.text)))
        inside = [k for k, (a, b) in enumerate(found["offset_mapping"][0].tolist()) if a < stop and b > start]
        end = text.index(sample.text) + sample.marks["caption"][1]
        mark = max(k for k, (a, b) in enumerate(found["offset_mapping"][0].tolist()) if a < end and b > a)
        for key, expected in zip(keys, (states[-1], states[inside].mean(0), states[mark]), strict=True):
            torch.testing.assert_close(together.values[key][i], expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("shared", [False, True])
def test_answers_are_the_models_own_logits(model: HFModel, entailment: Examples, shared: bool) -> None:
    """At the top those of a plain forward pass; below it the head after the norm of that layer's state."""
    samples = entailment.samples[:4]
    sites = [Site("lm", 2), Site("lm", 4), Site("lm", 4, "norm")]
    keys = [Key(site, f"{ANSWER}:true/false") for site in sites] + [Key(Site("lm", 4, "norm"), "last")]
    batch: Batch = model.collate(samples, keys, shared)
    found = read_states(model, batch, keys, torch.float32).values
    order = [samples[[s.uid for s in samples].index(uid)] for uid in batch.uids]
    ids = model._blueprint.prompter.answers(["true", "false"])
    assert not set(ids[0]) & set(ids[1])
    for i, sample in enumerate(order):
        out = model._model(**model._blueprint.process([sample]), output_hidden_states=True)
        top = torch.stack([out.logits[0, -1, one].logsumexp(0) for one in ids])
        lens = model._model.lm_head(model._model.model.language_model.norm(out.hidden_states[2][0, -1]))
        below = torch.stack([lens[one].logsumexp(0) for one in ids])
        for key, expected in zip(keys, (below, top, top), strict=False):
            torch.testing.assert_close(found[key][i], expected, rtol=1e-4, atol=1e-4)


def test_a_run_has_every_control_in_its_table(probe: Run, tmp_path: Path) -> None:
    quick = (
        "experiment=smoke",
        "sweep.draws=100",
        "sweep.permutations=100",
        "controls=all",
        "layers.stride=6",
        "random_draws=2",
    )
    code, _, err = probe("run", *quick)
    assert code == 0, err
    table = load_scores(next((tmp_path / "outputs" / "run").rglob("scores.csv")))
    whole = table[table.seed == "all"]
    at = whole[(whole.metric == "accuracy") & (whole.site == "lm.12") & (whole.position == "last")]
    at = at[at.features == "single"].set_index("control").value
    assert at[""] > 0.8 > 0.65 > at["random_weights"]
    assert at["text_only"] == at["blank_picture"] == 0.5, "texts are matched, and nothing else differs"
    chance = whole[(whole.metric == "accuracy") & whole.control.isin(["shuffled_picture", "random_weights"])]
    assert len(chance) > 8 and (chance[chance.family != "by design"].low <= 0.5).mean() > 0.8
    check_missing(whole)
    check_answers(whole)
    random = whole[whole.control.str.startswith("random_weights")]
    assert set(random.groupby("control").cache.nunique()) == {1} and random.cache.nunique() == 2, "a model a draw"
    assert set(random.cache).isdisjoint(whole[whole.control == "text_only"].cache)
    check_paired(whole, pd.read_csv(next((tmp_path / "outputs" / "run").rglob("tests.csv"))))
    again = probe("run", *quick)
    assert again[0] == 0 and "loading" not in again[2]


def check_paired(whole: pd.DataFrame, tests: pd.DataFrame) -> None:
    """Every layer that a control was read at has a row: real minus control, as scores.csv has the two."""
    rows = whole[
        (whole.metric == "accuracy") & (whole.site != "") & (whole.features == "single") & (whole.subset == "")
    ]
    values = rows.set_index(["control", "site", "position"]).value
    found = tests[tests.test == "control"].set_index(["other", "site", "position"])
    assert set(found.index) >= {place for place in values.index if place[0] in LAYERED}
    for place, row in found.iterrows():
        other, site, position = place
        against = values[other].iloc[0] if other in FLOORS else values[place]
        assert row.value == pytest.approx(values["", site, position] - against)
    assert set(found.loc["random_weights"].family) == set(found.loc["random_weights_2"].family)
    top = found.xs(("lm.12", "last"), level=("site", "position"))
    assert set(top.index) == {*LAYERED, *FLOORS}
    assert set(top[top.verdict == "above"].index) == {"shuffled_picture", *DRAWS}
    assert set(top[top.verdict == "by design"].index) == {"text_only", "blank_picture", *FLOORS}


def check_missing(whole: pd.DataFrame) -> None:
    """Without a picture there are no picture positions, and a row says so for each."""
    missing = whole[whole.metric == "not_applicable"]
    assert set(missing.control) == {"text_only"} and missing.value.isna().all()
    pictures = whole[(whole.control == "") & (whole.position == "mean_image") & (whole.metric == "accuracy")]
    assert set(zip(missing.site, missing.position, strict=True)) == {
        (row.site, row.position) for row in pictures.itertuples()
    }


def check_answers(whole: pd.DataFrame) -> None:
    answers = whole[whole.metric.isin(["accuracy", "yes_rate"]) & (whole.features == "answer")]
    zero_shot = answers[answers.control == "zero_shot"].set_index("metric").value
    top = answers[(answers.site == "lm.12") & (answers.probe == "logit_lens")].set_index("metric").value
    assert zero_shot["accuracy"] == top["accuracy"] > 0.8 and 0.3 < zero_shot["yes_rate"] < 0.7
