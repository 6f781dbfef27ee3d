"""What a named column explains, and what is known beyond it: labels move between pictures of one stratum only."""

import json
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from mllm_probe.errors import ConfigError
from mllm_probe.experiment.examples import covaried
from mllm_probe.fitting.strata import cut, strata_of
from mllm_probe.records.samples import Collection, Examples
from mllm_probe.results.score_file import load_scores
from mllm_probe.stats.permutation import max_t, votes
from tests.support.runs import Run


def test_labels_move_within_strata_as_enumerated_by_hand() -> None:
    """3 + 3 pictures of two rows: all 3! x 3! orders of the label blocks, against 20,000 random ones."""
    rng = np.random.default_rng(1)
    y = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 1, 0, 0])
    groups, strata = np.repeat(np.arange(6), 2), np.repeat([0, 0, 0, 7, 7, 7], 2)
    v = votes(rng.normal(size=(4, 3, 12)) + y)
    blocks = y.reshape(6, 2)
    turns = [(*a, *b) for a, b in product(permutations(range(3)), permutations(range(3, 6)))]
    null = np.array([[v[k, np.arange(12), blocks[list(t)].ravel()].mean() for k in range(4)] for t in turns])
    found = max_t(v, y, groups, np.arange(12), permutations=20_000, strata=strata)
    assert np.allclose(found.expected, null.mean(axis=0), atol=0.003)
    assert np.allclose(found.p, (null >= null[0] - 1e-9).mean(axis=0), atol=0.015)


def test_pictures_change_places_only_where_their_rows_have_the_same_strata() -> None:
    """Pictures 0 and 1 hold the strata a and b in either order of rows, 2 and 3 hold a and a: 2 x 2 orders."""
    y = np.array([1, 0, 1, 1, 1, 1, 0, 0])
    groups, strata = np.repeat(np.arange(4), 2), np.array(list("abbaaaaa"))
    v = votes(np.array([[[3.0, -1, 2, -1, 1, 1, -1, -1]]]))
    found = max_t(v, y, groups, np.arange(8), permutations=4000, strata=strata)
    # picture 0 has 1 at a and 0 at b, picture 1 has 1 at both: only the label of row 1 (b) and row 2 (b) may change
    null = [np.mean([1, *b, 0, *rest]) for b in ((1, 1), (0, 0)) for rest in ([1, 1, 1, 1], [0, 0, 0, 0])]
    assert abs(found.expected[0] - np.mean(null)) < 0.01 and found.statistic[0] == null[0]


def test_a_layer_that_reads_the_covariate_alone_is_above_chance_and_not_beyond_it() -> None:
    """200 data sets of 60 pictures: the label follows a stratum, the probe says the stratum and noise. 19 of 200 is the
    99.5th percentile at 5 %."""
    alarms = chance = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        strata = rng.integers(0, 3, 60)
        y = (rng.random(60) < np.array([0.2, 0.5, 0.8])[strata]).astype(int)
        v = votes(strata - 1 + 0.7 * rng.normal(size=(4, 1, 60)))
        given = (y, np.arange(60), np.arange(60))
        alarms += max_t(v, *given, permutations=199, strata=strata).p_adjusted.min() <= 0.05
        chance += max_t(v, *given, permutations=199).p_adjusted.min() <= 0.05
    assert alarms <= 19 and chance > 100


@pytest.mark.parametrize(
    ("values", "most", "names"),
    [
        (["3", 1.0, "2", 1.0], 5, ["3", "1", "2", "1"]),
        ([float(i) for i in range(1, 11)], 5, [f"{i} to {i + 1}" for i in (1, 3, 5, 7, 9) for _ in "ab"]),
        ([1.0, 1.0, 1.0, 1.0, 9.0, 12.0], 2, ["1"] * 4 + ["9 to 12"] * 2),
        (["a", "a", "b", "b", "c", "d", ""], 3, ["a", "a", "other", "other", "other", "other", "missing"]),
        (["web", "book", "web", ""], 5, ["web", "book", "web", "missing"]),
    ],
)
def test_a_covariate_is_cut_into_few_strata(values: list[str | float], most: int, names: list[str]) -> None:
    assert cut(values, most) == names and len(set(names)) <= most


def test_strata_are_as_fine_as_labels_can_still_move() -> None:
    """One decision a picture moves within five strata; four of different lengths need pictures of the same make-up."""
    rng = np.random.default_rng(0)
    lengths, pictures, every = rng.normal(size=160).tolist(), np.repeat(np.arange(40), 4), np.ones(160, bool)
    assert len(set(strata_of(lengths, np.arange(160), every))) == 5
    several = strata_of(lengths, pictures, every)
    assert 2 <= len(set(several)) < 5
    asked = (rng.normal(size=(1, 160)), rng.normal(size=160), pictures, np.arange(160), "number")
    assert max_t(*asked, permutations=9, strata=several).moving >= 128
    assert len(set(strata_of([str(i % 4) for i in range(160)], pictures, every))) == 4, "every picture is made up alike"


def test_every_task_knows_words_and_objects(entailment: Examples, scenes: Collection) -> None:
    found = covaried(entailment, scenes, ["objects", "words"])
    counts = {picture.digest: sum(picture.counts.values()) for picture in scenes.pictures}
    samples = {sample.uid: sample for sample in found.samples}
    for decision in found.decisions:
        sample = samples[decision.sample]
        assert decision.covariates == {"objects": counts[sample.digests[0]], "words": len(sample.text.split())}
    assert covaried(entailment, scenes, []) == entailment
    with pytest.raises(ConfigError, match="'word', which no decision has; did you mean 'words'"):
        covaried(entailment, scenes, ["word"])
    with pytest.raises(ConfigError, match="must be a list"):
        covaried(entailment, scenes, "words")


@pytest.fixture
def table(tmp_path: Path) -> tuple[str, ...]:
    """48 pictures with a dot: large dots are mostly "yes", so that the column of sizes explains the answers."""
    rows = []
    for i in range(48):
        size, image = 4 + 2 * (i % 6), Image.new("RGB", (64, 64), (230, 230, 230))
        ImageDraw.Draw(image).ellipse((i, 20, i + size, 20 + size), fill=(200, 5 * i, 40))
        image.save(tmp_path / f"{i}.png")
        label = ("yes", "no")[(size > 9) == (i % 7 == 0)]
        source = ("web", "book", "film")[i % 3]
        rows.append({"picture": f"{i}.png", "text": "Is it large?", "label": label, "size": size, "source": source})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quick = (
        "experiment=smoke",
        "layers.towers=[lm]",
        "layers.range=[11,12]",
        "layers.stride=1",
        "extract.positions=[last]",
        "guards=note",
        "splits.test=0.5",
    )
    return (
        *quick,
        "task=custom",
        f"dataset.root={tmp_path}",
        "dataset.file=rows.jsonl",
        "splits.near_duplicates=false",
    )


def test_a_run_tells_what_a_column_explains_and_what_is_known_beyond(
    probe: Run, tmp_path: Path, table: tuple[str, ...]
) -> None:
    code, _, err = probe("run", *table, "task.covariates=[size,source]")
    assert code == 0, err
    folder = next((tmp_path / "outputs" / "run").rglob("tests.csv")).parent
    tests, scores = pd.read_csv(folder / "tests.csv"), load_scores(folder / "scores.csv")
    beyond = tests[tests.test == "beyond"]
    assert set(beyond.other) == {"size", "source"} and set(beyond.site) == {"lm.11", "lm.12", "lm.12.norm"}
    assert set(beyond[beyond.other == "source"].family) == {"3 keys, 3 strata of source"}
    parts = scores[scores.subset.str.startswith("source=")]
    assert set(parts.subset) == {"source=web", "source=book", "source=film"}
    whole = scores[(scores.site == "lm.12") & (scores.seed == "all") & (scores.metric == parts.metric.iloc[0])]
    whole = whole[(whole.split == "test") & (whole.control == "") & (whole.subset == "")].iloc[0]
    here = parts[(parts.site == "lm.12") & (parts.control == "")]
    assert here.n.sum() == whole.n
    alone = scores[(scores.control == "covariate:size") & (scores.seed == "all") & (scores.metric == "accuracy")]
    assert alone.value.iloc[0] > 0.7, "the column explains most answers"


def test_a_column_that_is_not_there_is_a_sentence_before_any_weight(probe: Run, table: tuple[str, ...]) -> None:
    code, _, err = probe("run", *table, "task.covariates=[sizes]")
    assert code == 1 and "loading" not in err
    assert "task.covariates names 'sizes', which no decision has; did you mean 'size'?" in " ".join(err.split())
    for column in ("label", "picture", "size", "source", "text", "words"):
        assert column in err
