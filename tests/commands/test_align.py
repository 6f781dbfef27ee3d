"""Alignment of pictures and captions against oracles: naive loops, enumerated orders, planted states; and the command,
whose numbers are found again by hand in the shards."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest

from mllm_probe.errors import DataError, ProbeError
from mllm_probe.experiment import fill as filling
from mllm_probe.experiment.prepare import prepare
from mllm_probe.extraction.taps import read_states
from mllm_probe.files.paths import RunPaths
from mllm_probe.models.hf import HFModel
from mllm_probe.records.samples import Collection, Examples, Sample
from mllm_probe.records.sites import Key
from mllm_probe.results.score_file import load_scores
from mllm_probe.stats.bootstrap import Resamples, interval
from mllm_probe.stats.permutation import two_sided
from mllm_probe.sugar.centring import Centring, Cosines, States, centred, mapped, unit
from mllm_probe.sugar.gallery import Gallery, draw_pictures
from mllm_probe.sugar.measures import said_alone, shown_alone
from mllm_probe.sugar.pairwise import Sequences, similarities
from mllm_probe.sugar.request import galleries
from mllm_probe.sugar.retrieval import (
    FALSE,
    LEFT_OUT,
    OWN,
    TO_IMAGE,
    TO_TEXT,
    Measure,
    Quadruples,
    Retrieval,
    Statements,
    permuted,
    ranks,
)
from mllm_probe.sugar.sequences import Places, aligned_mean, bag_mean, gak, median_distance
from tests.support.configs import composed
from tests.support.families_more import BUILDERS
from tests.support.runs import QUICK, Run, Silent, tiny

RNG = np.random.default_rng(0)
SMALL = ("align.documents=12", "align.permutations=19", "controls=none")


def relevance_of(pictures: int, each: int) -> np.ndarray:
    """Text j is written about picture j // each, and false of all others."""
    return np.repeat(np.eye(pictures, dtype=np.int8), each, axis=1)


def retrieval(relevance: np.ndarray, target: str) -> Retrieval:
    return Retrieval("retrieval", target, relevance, np.arange(relevance.shape[target == TO_IMAGE]))


def test_ranks_equal_a_naive_loop_and_ties_count_against() -> None:
    relevance = RNG.choice([OWN, FALSE, LEFT_OUT], size=(30, 12), p=(0.2, 0.6, 0.2))
    relevance[:, 0] = OWN
    similarity = RNG.integers(0, 5, relevance.shape).astype(float)  # many ties
    for row, wanted, rank in zip(similarity, relevance, ranks(similarity, relevance), strict=True):
        order = sorted(
            (-value, kind == OWN) for value, kind in zip(row, wanted, strict=True) if kind != LEFT_OUT
        )  # of equal ones the false one comes first
        assert rank == 1 + sum(not own for _, own in order[: [own for _, own in order].index(True)])
    with pytest.raises(ProbeError, match="no candidate of its own"):
        ranks(similarity, np.full_like(relevance, FALSE))


def test_nan_finds_nothing() -> None:
    similarity = np.full((4, 4), np.nan)
    assert retrieval(np.eye(4, dtype=np.int8), TO_TEXT).values(similarity).tolist() == [0, 1, 1]


def test_chance_is_the_mean_over_all_orders() -> None:
    relevance = np.asarray([[OWN, OWN, FALSE, FALSE, LEFT_OUT, FALSE], [FALSE, FALSE, OWN, FALSE, FALSE, FALSE]])
    asked = retrieval(relevance, TO_TEXT)
    orders = np.asarray(list(permutations(range(6))), dtype=float)
    found = np.mean([asked.values(np.tile(order, (2, 1))) for order in orders], axis=0)
    np.testing.assert_allclose(asked.chance, found)


def test_winoground_scores_are_those_of_the_paper() -> None:
    s = RNG.normal(size=(400, 2, 2))
    table = s.transpose(1, 0, 2).reshape(2, -1)  # pictures 0 and 1, captions 2 q and 2 q + 1
    captions = np.arange(800).reshape(-1, 2)
    asked = Quadruples(np.tile([0, 1], (400, 1)), captions, np.arange(400))
    text = [q[0, 0] > q[0, 1] and q[1, 1] > q[1, 0] for q in s]
    image = [q[0, 0] > q[1, 0] and q[1, 1] > q[0, 1] for q in s]
    group = [a and b for a, b in zip(text, image, strict=True)]
    np.testing.assert_allclose(asked.values(table), np.mean([text, image, group], axis=1))
    np.testing.assert_allclose(asked.values(table), asked.chance, atol=0.07)
    assert not asked.hits(np.zeros_like(table)).any(), "ties are no preference"


def sequences(count: int, longest: int, rows: int) -> list[list[int]]:
    return [RNG.integers(0, rows, RNG.integers(1, longest + 1)).tolist() for _ in range(count)]


@pytest.mark.parametrize("delta", [0.3, 1.0])
def test_the_kernel_from_cosines_equals_the_one_from_vectors(delta: float) -> None:
    pictures, texts = unit(RNG.normal(size=(9, 6))), unit(RNG.normal(size=(14, 6)))
    left, right = sequences(7, 4, 9), sequences(5, 3, 14)
    vectors = torch.zeros(12, 4, 6, dtype=torch.float64)
    for row, (index, source) in zip(
        vectors, [*((i, pictures) for i in left), *((i, texts) for i in right)], strict=True
    ):
        row[: len(index)] = torch.from_numpy(source[index])
    lengths = torch.tensor([*map(len, left), *map(len, right)])
    expected = similarities(Sequences(vectors, lengths), delta, cosine=False)[:7, 7:]
    own = pictures @ pictures.T, texts @ texts.T
    found = gak(pictures @ texts.T, own, Places.of(left), Places.of(right), delta)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_single_slices_are_ranked_by_the_kernel_as_by_the_cosine() -> None:
    states = States(RNG.normal(size=(20, 5)), RNG.normal(size=(20, 5)))
    cosines, alone = Cosines.of(states), Places.of([[i] for i in range(20)])
    kernel = gak(cosines.across, (cosines.pictures, cosines.texts), alone, alone, median_distance(cosines.across))
    np.testing.assert_array_equal(np.argsort(kernel, axis=1), np.argsort(cosines.across, axis=1))
    for target in (TO_TEXT, TO_IMAGE):
        asked = retrieval(np.eye(20, dtype=np.int8), target)
        np.testing.assert_array_equal(asked.hits(kernel), asked.hits(cosines.across))


def test_means_of_slices_equal_naive_loops() -> None:
    cosines = RNG.normal(size=(9, 14))
    left, right = sequences(7, 4, 9), sequences(5, 4, 14)
    places = Places.of(left), Places.of(right)
    aligned, bag = aligned_mean(cosines, *places), bag_mean(cosines, *places)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            assert bag[i, j] == pytest.approx(np.mean([cosines[p, q] for p in a for q in b]))
            same = np.mean([cosines[p, q] for p, q in zip(a, b, strict=False)]) if len(a) == len(b) else np.nan
            assert aligned[i, j] == pytest.approx(same, nan_ok=True)


@pytest.mark.parametrize("given", [[], [[0], []]])
def test_a_sequence_without_a_slice_is_one_sentence(given: list[list[int]]) -> None:
    with pytest.raises(ProbeError, match="each needs one or more"):
        Places.of(given)


def planted(signal: float, pictures: int = 40, each: int = 3, width: int = 50) -> States:
    """Captions are their pictures `signal` times, and noise; each modality has an offset of its own."""
    own = RNG.normal(size=(pictures, width))
    texts = signal * np.repeat(own, each, axis=0) + RNG.normal(size=(pictures * each, width))
    return States(own + 30 * RNG.normal(size=width), texts + 30 * RNG.normal(size=width))


def split(states: States) -> dict[str, States]:
    """Pictures by halves: 20 train, 20 test."""
    return {
        "train": States(states.pictures[:20], states.texts[:60]),
        "test": States(states.pictures[20:], states.texts[60:]),
    }


@pytest.mark.parametrize("target", [TO_TEXT, TO_IMAGE])
def test_a_signal_planted_in_one_layer_is_found_there_alone(target: str) -> None:
    layers = [0.0, 5.0, 0.0]
    asked = retrieval(relevance_of(20, 3), target)
    found = [asked.values(Cosines.of(centred(split(planted(signal)))["test"]).across)[0] for signal in layers]
    assert found[1] > 0.95
    assert max(found[0], found[2]) < asked.chance[0] + 0.15
    raw = asked.values(Cosines.of(split(planted(5.0))["test"]).across)[0]
    assert raw < 0.6, "the offsets hide it, or centring is not tested"


def test_states_are_centred_by_the_training_split_and_nothing_else() -> None:
    states = split(planted(1.0))
    before = centred(states, remove=2)
    other = {**states, "test": States(7 + 3 * states["test"].pictures, -states["test"].texts)}
    after = centred(other, remove=2)
    np.testing.assert_array_equal(before["train"].pictures, after["train"].pictures)
    mean = states["train"].texts.mean(axis=0)
    np.testing.assert_allclose(centred(states)["test"].texts, states["test"].texts - mean)
    assert abs(centred(states)["test"].texts.mean(axis=0)).max() > 1e-3


def test_the_largest_components_of_training_are_taken_out() -> None:
    train = RNG.normal(size=(50, 6)) * (100, 10, 1, 1, 1, 1)
    rows = Centring.of(train, remove=2)(RNG.normal(size=(9, 6)))
    assert np.linalg.matrix_rank(rows, tol=1e-8) == 4
    assert abs(rows[:, :2]).max() < 0.5
    with pytest.raises(ProbeError, match="align.remove_components=6"):
        Centring.of(train, remove=6)


def test_a_map_fitted_to_training_pairs_undoes_a_rotation_and_sees_no_test() -> None:
    pictures = RNG.normal(size=(90, 8))
    rotation = np.linalg.qr(RNG.normal(size=(8, 8)))[0]
    states = {
        name: States(pictures[rows], pictures[rows] @ rotation)
        for name, rows in (("train", slice(0, 40)), ("val", slice(40, 60)), ("test", slice(60, 90)))
    }
    own = {name: np.eye(len(one.pictures)) for name, one in states.items()}
    asked = retrieval(np.eye(30, dtype=np.int8), TO_TEXT)
    carried, strength = mapped(centred(states), own)
    assert asked.values(Cosines.of(centred(states)["test"]).across)[0] < 0.3
    assert asked.values(Cosines.of(carried["test"]).across)[0] == 1
    reference = mapped(centred({**states, "test": States(-pictures[60:], pictures[60:])}), own)
    assert reference[1] == strength
    np.testing.assert_array_equal(reference[0]["val"].pictures, carried["val"].pictures)


def measures_of(pictures: int) -> list[Measure]:
    """Three captions a picture; each picture's first is said of it and of the one before it."""
    rows = np.arange(pictures).repeat(2)
    texts = np.stack([3 * np.arange(pictures), 3 * np.arange(1, pictures + 1) % (3 * pictures)], axis=1)
    return [
        retrieval(relevance_of(pictures, 3), TO_TEXT),
        retrieval(relevance_of(pictures, 3), TO_IMAGE),
        Statements(rows, texts.ravel(), np.tile([1, 0], pictures), rows),
        Quadruples(np.stack([rows[::2], (rows[::2] + 1) % pictures], axis=1), texts, rows[::2]),
    ]


def test_an_interval_of_questions_that_are_all_answered_has_a_length() -> None:
    """12 pictures and nothing wrong: draws of them are all 1, the exact interval begins at 0.025^(1/12). The questions
    of one picture are no more than one."""
    relevance = relevance_of(12, 3)
    for target, names in ((TO_TEXT, np.arange(12)), (TO_IMAGE, np.arange(12).repeat(3))):
        asked, pictures = Retrieval("retrieval", target, relevance, names), Resamples(names, 200)
        assert interval(pictures.ratios(asked.hits(1.0 * relevance).T).T, 12).tolist() == [[1, 1]] * 3
        for found in asked.intervals(1.0 * relevance, pictures, 0.95):
            assert (found.low, found.high) == (pytest.approx(0.025 ** (1 / 12)), 1)
    *_, statements, quadruples = measures_of(12)
    for one in quadruples.intervals(np.eye(12).repeat(3, axis=1), Resamples(quadruples.groups, 200), 0.95):
        assert (one.low, one.high) == (pytest.approx(0.025 ** (1 / 12)), 1)
    (apart,) = statements.intervals(np.eye(12).repeat(3, axis=1), Resamples(statements.groups, 200), 0.95)
    assert 0.7 < apart.low < 0.95 and apart.high == 1


def test_few_pictures_give_an_auroc_no_interval_and_the_reason() -> None:
    statements = measures_of(7)[2]
    (found,) = statements.intervals(RNG.normal(size=(7, 21)), Resamples(statements.groups, 200), 0.95)
    assert np.isnan([found.low, found.high]).all() and "7 test pictures" in found.reason


def test_the_null_of_what_says_nothing_is_chance() -> None:
    measures = measures_of(40)
    nulls = permuted(measures, RNG.normal(size=(40, 120)), np.arange(40), 200, seed=0)
    for measure, null in zip(measures, nulls, strict=True):
        np.testing.assert_allclose(null.mean(axis=0), measure.chance, atol=0.05)


def test_the_null_forgets_what_was_planted() -> None:
    """Captions of one picture are alike here, so several of them stand in the way of one: less than chance is left."""
    measures, across = measures_of(20), Cosines.of(centred(split(planted(5.0)))["test"]).across
    for measure, null in zip(measures, permuted(measures, across, np.arange(20), 400, seed=0), strict=True):
        assert measure.values(across).min() > 0.9
        assert (null.mean(axis=0) < measure.chance + 0.05).all()
    assert null.std(axis=0).min() > 0, "the pictures were exchanged"


def film_alarms(groups: np.ndarray) -> int:
    """Of 120 sets of 12 films of 4 frames, whose frames and captions are alike and say nothing of each other: how often
    p is 0.05 or less, the frames of `groups` kept together."""
    films, rng, alarms = np.arange(12).repeat(4), np.random.default_rng(5), 0
    asked = Statements(np.arange(48), np.arange(48), 1 - films % 2, films)
    for seed in range(120):
        shown, said = (rng.normal(size=(12, 5)).repeat(4, axis=0) + 0.3 * rng.normal(size=(48, 5)) for _ in range(2))
        (null,) = permuted([asked], shown @ said.T, groups, 99, seed)
        alarms += two_sided(float(asked.values(shown @ said.T)[0]), null[:, 0]) <= 0.05
    return alarms


def test_the_null_exchanges_groups_of_pictures_not_pictures() -> None:
    assert binomtest(film_alarms(np.arange(12).repeat(4)), 120, 0.05, "greater").pvalue > 0.01
    assert binomtest(film_alarms(np.arange(48)), 120, 0.05, "greater").pvalue < 1e-6, "frames one by one"


@pytest.mark.parametrize(("value", "p"), [(0.95, 0.02), (0.05, 0.02), (0.7, 0.04), (0.31, 0.08), (0.5, 1.0)])
def test_p_is_two_sided(value: float, p: float) -> None:
    """An AUROC far below one half is as surprising as one far above; a tie counts against."""
    assert two_sided(value, np.linspace(0.3, 0.7, 99)) == pytest.approx(p)


def test_states_without_a_direction_are_one_sentence() -> None:
    with pytest.raises(ProbeError, match="1 of 3 states are zero"):
        unit(np.asarray([[1.0, 2.0], [0.0, 0.0], [3.0, 1.0]]))


@pytest.fixture(scope="module")
def gallery(scenes: Collection, entailment: Examples) -> Gallery:
    samples = {sample.uid: sample for sample in entailment.samples}
    claims = []
    for decision in entailment.decisions:
        sample = samples[decision.sample]
        claims.append((sample.digests[0], sample.text[slice(*sample.marks["caption"])], int(decision.label)))
    return Gallery(scenes.pictures, scenes.contradicts, claims)


def test_captions_are_own_or_false_or_neither(scenes: Collection, gallery: Gallery) -> None:
    neither = 0
    for row, picture in zip(gallery.relevance, scenes.pictures, strict=True):
        for kind, text in zip(row, gallery.texts, strict=True):
            own, false = text in picture.captions, scenes.contradicts(picture, text)
            assert kind == (OWN if own else FALSE if false else LEFT_OUT)
            neither += not own and not false
    assert neither, "some captions are true of pictures they were not written about"
    np.testing.assert_allclose(gallery.own.sum(axis=1), 1)


def test_statements_are_those_of_the_task(gallery: Gallery) -> None:
    statements = next(one for one in gallery.single if isinstance(one, Statements))
    kinds = gallery.relevance[statements.pictures, statements.texts]
    np.testing.assert_array_equal(kinds, np.where(statements.labels == 1, OWN, FALSE))


def test_quadruples_tell_two_pictures_apart_in_similar_words(gallery: Gallery) -> None:
    quadruples = next(one for one in gallery.single if isinstance(one, Quadruples))
    kinds = gallery.relevance[quadruples.pictures[:, :, None], quadruples.texts[:, None]]
    assert (kinds == [[OWN, FALSE], [FALSE, OWN]]).all() and len(kinds) > 10
    words = [[set(gallery.texts[text].split()) for text in pair] for pair in quadruples.texts]
    assert np.mean([len(a & b) / len(a | b) for a, b in words]) > 0.7


def test_documents_meet_their_like_in_length_alone(gallery: Gallery) -> None:
    documents = gallery.documents(20, 4, seed=0)
    np.testing.assert_array_equal(documents.pictures.lengths, documents.captions.lengths)
    assert set(documents.pictures.lengths) == {2, 3, 4}
    for pictures, captions in zip(documents.pictures.index, documents.captions.index, strict=True):
        assert (gallery.relevance[pictures[:2], captions[:2]] == OWN).all()
    relevance = documents.measures[0].relevance  # type: ignore[attr-defined]
    same = documents.pictures.lengths[:, None] == documents.pictures.lengths
    np.testing.assert_array_equal(relevance != LEFT_OUT, same)


def test_too_few_pictures_or_documents_are_one_sentence(scenes: Collection) -> None:
    with pytest.raises(DataError, match="the test split has 1 pictures with captions"):
        draw_pictures(scenes.pictures[:1], None, 0, "test")
    with pytest.raises(DataError, match="documents of 2 pictures or more"):
        Gallery(scenes.pictures[:1], scenes.contradicts).documents(4, 3, 0)


def folder_of(place: Path) -> Path:
    return sorted((place / "outputs" / "align").glob("*/*"))[-1]


def test_the_command_reads_both_alone_and_the_second_time_from_the_cache(
    probe: Run, tmp_path: Path, checkpoint: Path, model: HFModel
) -> None:
    asked = (*QUICK, *SMALL, *tiny(checkpoint), "model.quantization=none", "layers.range=[0,2]", "layers.stride=1")
    code, out, err = probe("align", *asked)
    assert code == 0, err
    folder = folder_of(tmp_path)
    files = {path.name for path in folder.iterdir()}
    assert {"alignment.csv", "alignment.png", "alignment.pdf", "summary.json", "config.yaml", "status.json"} <= files
    assert "pictures to captions" in out and "mapped cosine" in out and "nan" not in out
    table = load_scores(folder / "alignment.csv")
    shown = ("report.style=paper", "report.size=[8,11]", "report.font=DejaVu Serif")
    assert probe("report", str(folder), *shown)[0] == 0
    with Image.open(folder / "alignment.png") as image:
        assert image.size == (8 * 160, 11 * 160)
    assert b"DejaVuSerif" in (folder / "alignment.pdf").read_bytes()
    check_rows(table)
    check_by_hand(table, asked, tmp_path, model)
    code, _, err = probe("align", *asked)
    assert code == 0, err
    again = folder_of(tmp_path)
    assert again != folder and (again / "alignment.csv").read_bytes() == (folder / "alignment.csv").read_bytes()
    assert all(side["hit"] for side in json.loads((again / "summary.json").read_text())["extraction"])
    code, out, _ = probe("report", f"run={again}")
    assert code == 0 and "document to captions" in out


def check_rows(table: pd.DataFrame) -> None:
    layers = table[(table.site != "") & (table.split == "test")]
    assert set(layers.site) == {"lm.00", "lm.01", "lm.02"} and len(set(layers.position)) == 4
    assert set(layers.features) == {"raw", "centred", "mapped"} and set(layers.control) == {"", "permuted"}
    assert set(layers.probe) == {"cosine", "gak", "aligned_mean", "bag_mean"}
    tested = table[table.p_value.notna()]
    assert (tested.split == "test").all() and (tested.p_holm >= tested.p_value).all() and (tested.family != "").all()
    assert set(tested[tested.control == ""].task) == {"retrieval", "entailment", "quadruples"}
    assert set(table[table.site == ""].probe) == {"chance", "caption_length"}


def check_by_hand(table: pd.DataFrame, asked: Sequence[str], place: Path, model: HFModel) -> None:
    """Each picture and each caption in a pass of its own, centred by hand, searched by a loop."""
    config = composed(*asked, f"paths.outputs={place / 'outputs'}", command="align")
    found = galleries(prepare(replace(config, controls=[]), RunPaths(place), Silent()), config)
    shown, said = (
        {name: np.stack([read(model, sample, key) for sample in samples]) for name, samples in side.items()}
        for key, side in (
            ("lm.02@mean_image", {name: map(shown_alone, one.pictures) for name, one in found.items()}),
            ("lm.02@mark:caption", {name: map(said_alone, one.texts) for name, one in found.items()}),
        )
    )
    test, hits = found["test"], 0
    texts = dict(zip(test.texts, said["test"] - said["train"].mean(axis=0), strict=True))
    for picture, row in zip(test.pictures, shown["test"] - shown["train"].mean(axis=0), strict=True):
        cosine = {text: row @ other / np.linalg.norm(row) / np.linalg.norm(other) for text, other in texts.items()}
        captions = {text for one in test.pictures for text in one.captions}
        false = [cosine[text] for text in captions if test.contradicts(picture, text)]
        hits += sum(value >= max(cosine[text] for text in picture.captions) for value in false) < 10
    here = table[(table.site == "lm.02") & (table.position == "mean_image x mark:caption") & (table.control == "")]
    here = here[(here.metric == "recall_at_10") & (here.target == TO_TEXT) & (here.task == "retrieval")]
    row = here[(here.features == "centred") & (here.split == "test")]
    assert 0 < hits < len(test.pictures)
    assert row.value.item() == pytest.approx(hits / len(test.pictures))


def read(model: HFModel, sample: Sample, name: str) -> np.ndarray:
    key = Key.parse(name)
    return read_states(model, model.collate([sample], [key]), [key], torch.float32).values[key][0].double().numpy()


def test_a_summary_tells_of_all_attempts(
    probe: Run, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One attempt dies with the pictures read and the captions not; the summary is that of a command in peace."""
    asked = (*QUICK, *SMALL, *tiny(checkpoint), "model.quantization=none", "layers.range=[2,2]", "layers.stride=1")
    asked += ("align.images_at=[last]", "align.texts_at=[last]", "align.permutations=0")
    fill, calls = filling._fill, []

    def dies(experiment: object, *more: object) -> dict[str, object]:
        calls.append(experiment)
        if len(calls) == 2:
            raise DataError("killed")
        return fill(experiment, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(filling, "_fill", dies)
        assert probe("align", *asked)[0] == 1
    for more in (), ("paths.outputs=peace",):
        assert probe("align", *asked, *more)[0] == 0
    killed, peace = (
        json.loads(next(tmp_path.glob(f"{place}/align/*/*/summary.json")).read_text())["extraction"]
        for place in ("outputs", "peace")
    )
    for one in (*killed, *peace):
        assert one.pop("seconds") > 0
        one.pop("prefix", "how a last attempt read")
    assert killed == peace and all(one["forward_passes"] > 0 and not one["hit"] for one in peace)
    assert not list(tmp_path.glob("outputs/unfinished/*"))


def test_random_weights_have_rows_of_their_own(probe: Run, tmp_path: Path, checkpoint: Path) -> None:
    settings = ("align.documents=12", "align.permutations=0", "align.images_at=[last]", "align.texts_at=[last]")
    settings = (*settings, "data.n=26", "dataset.pictures=26", "layers.range=[1,1]", "layers.stride=1")
    code, out, err = probe("align", *QUICK, *settings, *tiny(checkpoint))
    assert code == 0, err
    assert "no interval of auroc: a label is in" in err and "nan" not in out
    table = load_scores(folder_of(tmp_path) / "alignment.csv")
    twin = table[table.control == "random_weights"]
    assert (
        len(twin)
        and set(twin.model) == {"llava-random"}
        and set(twin.cache).isdisjoint(table[table.control == ""].cache)
    )
    assert table.p_value.isna().all()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("extract.gpus=2", "extract.gpus=2: align reads pictures and captions in one process"),
        ("align.most=1", "align.most=1 must be 2 to 100,000"),
        ("align.pictures=1", "align.pictures=1 must be 2 or more"),
        ("align.documents=0", "align.documents=0 must be 2 to 100,000"),
        ("align.permutations=-1", "align.permutations=-1 must be 0 to 1,000,000"),
        ("align.delta=0", "align.delta=0.0 must be above 0, or null"),
        ("align.images_at=[mean_txt]", "align.images_at names 'mean_txt', which cannot be read"),
        ("align.texts_at=[mean_image]", "align.texts_at names 'mean_image', which cannot be read"),
        ("align.texts_at=[]", "must hold at least one position"),
        ("controls=[blank_picture]", "align takes only random_weights, or none"),
        ("splits.unit=row", "splits.unit=row: align centres by other pictures than it scores"),
        ("task=objects", "true and false captions from task=entailment"),
        ("align.remove_components=200", "align.remove_components=200 must be below 16"),
    ],
)
def test_bad_settings_are_one_sentence(probe: Run, override: str, message: str) -> None:
    code, _, err = probe("align", *QUICK, "layers.range=[8,8]", "layers.stride=1", "controls=none", override)
    assert code == 1 and message in err and "Traceback" not in err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PaliGemma's processor under numpy 2
@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("mllama", "holds no token of theirs in its language model"),
        ("blip2", "reads no prompt without a picture"),
        ("paligemma", "needs a picture in every prompt"),
    ],
)
def test_models_that_cannot_read_either_alone_are_refused(
    probe: Run, tmp_path: Path, family: str, message: str
) -> None:
    folder = BUILDERS[family](tmp_path / family)
    code, _, err = probe("align", *QUICK, *tiny(folder), "controls=none")
    assert code == 1 and message in err and "Traceback" not in err
