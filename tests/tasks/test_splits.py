"""Groups and official splits decide who trains; what leaks is refused, and shown to leak where rows are drawn."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from mllm_probe.errors import ConfigError, DataError
from mllm_probe.records.samples import Collection, Decision, Examples, Picture, Sample
from mllm_probe.scoring.summary import save_splits
from mllm_probe.tasks.entailment import Entailment
from mllm_probe.tasks.splits import TEST, VAL, Folds, leaks, read_splits, rowwise
from tests.support.questions import balance
from tests.support.runs import Run, tiny

PICTURES = [Picture(str(i), Path(f"{i:012d}.jpg"), f"d{i:02d}") for i in range(40)]


def listing(folder: Path, *rows: str, header: str = "picture,split") -> str:
    path = folder / "splits.csv"
    path.write_text("\n".join([header, *rows]))
    return str(path)


def official(folder: Path, n_val: int) -> str:
    """The first 10 pictures test, by id; the next `n_val` validate and the rest train, by file name."""
    names = [f"{i},test" for i in range(10)]
    names += [f"{i:012d}.jpg,{'val' if i < 10 + n_val else 'train'}" for i in range(10, 40)]
    return listing(folder, *names, "999,val", "", "998,test")


def test_groups_and_not_digests_share_a_fold() -> None:
    pictures = [replace(picture, group=f"g{i // 4}") for i, picture in enumerate(PICTURES)]
    folds = Folds(blocks=4).assign(pictures)
    assert set(folds) == {f"g{i}" for i in range(10)}
    assert sum(fold == TEST for fold in folds.values()) == round(0.25 * 10)


def test_official_splits_hold_for_every_seed(tmp_path: Path) -> None:
    folds = Folds(file=official(tmp_path, n_val=5))
    assigned = folds.assign(PICTURES)
    assert assigned == {p.digest: TEST if i < 10 else VAL if i < 15 else 1 for i, p in enumerate(PICTURES)}
    named = {p.digest: "test" if i < 10 else "val" if i < 15 else "train" for i, p in enumerate(PICTURES)}
    assert all(folds.splits(assigned, seed) == named for seed in range(4))


def test_official_splits_without_validation_are_cut_into_blocks(tmp_path: Path) -> None:
    listed = listing(tmp_path, *(f"{i},{'test' if i < 10 else 'train'}" for i in range(40)))
    folds = Folds(file=listed, blocks=5)
    assigned = folds.assign(PICTURES)
    assert {group for group, fold in assigned.items() if fold == TEST} == {f"d{i:02d}" for i in range(10)}
    assert set(assigned.values()) == {TEST, 1, 2, 3, 4, 5}
    drawn = [folds.splits(assigned, seed) for seed in range(6)]
    validating = {frozenset(g for g, name in split.items() if name == "val") for split in drawn}
    assert len(validating) > 1 and all(len(val) == 6 for val in validating)


def test_official_splits_balance_the_tasks(scenes: Collection, tmp_path: Path) -> None:
    names = [f"{p.id},{('test', 'val', 'train')[min(i // 10, 2)]}" for i, p in enumerate(scenes.pictures)]
    folds = Folds(file=listing(tmp_path, *names))
    examples = Entailment().examples(scenes, folds)
    folds.check(examples, [0, 1])
    leaks(examples, folds, [0, 1])
    split = folds.splits(examples.folds, 0)
    texts = {sample.uid: sample.text for sample in examples.samples}
    for name in ("train", "val", "test"):
        held = [d for d in examples.decisions if split[d.group] == name]
        assert sorted(texts[d.sample] for d in held if d.label) == sorted(texts[d.sample] for d in held if not d.label)


def of_a_run(folder: Path, folds: Folds, pictures: list[Picture], seeds: tuple[int, ...] = (0, 1, 2)) -> str:
    assigned = folds.assign(pictures)
    save_splits(folder / "splits.csv", {seed: folds.splits(assigned, seed) for seed in seeds})
    return str(folder / "splits.csv")


def test_the_splits_of_a_run_are_taken_as_they_were(tmp_path: Path, scenes: Collection) -> None:
    """Seed by seed, balanced in each split; of other data or seeds they are refused."""
    pictures = list(scenes.pictures)
    drawn = Folds(blocks=4)
    folds = Folds(file=of_a_run(tmp_path, drawn, pictures), test=0.5, blocks=2)
    assigned = folds.assign(pictures)
    for seed in range(3):
        assert folds.splits(assigned, seed) == drawn.splits(drawn.assign(pictures), seed)
    examples = Entailment().examples(scenes, folds)
    folds.check(examples, [0, 1, 2])
    leaks(examples, folds, [0, 1, 2])
    for seed in range(3):
        cells = balance(examples, folds.splits(examples.folds, seed), "text")
        assert all(counts[0] == counts[1] for counts in cells.values())
    with pytest.raises(
        ConfigError, match=r"has the splits of the seeds 0, 1, 2 and none of seed 7; set sweep.seeds=\[0,"
    ):
        folds.splits(assigned, 7)
    with pytest.raises(DataError, match="does not list the group d00 of the selected picture 0 for every seed"):
        folds.assign(PICTURES)


def test_a_test_set_that_moves_between_seeds_is_refused(tmp_path: Path) -> None:
    rows = [
        f"{seed},{p.digest},{'test' if i < 10 + seed else 'train'}" for seed in (0, 1) for i, p in enumerate(PICTURES)
    ]
    with pytest.raises(DataError, match="group d10 is in the test split of some seeds only"):
        Folds(file=listing(tmp_path, *rows, header="seed,group,split")).assign(PICTURES)


def test_extract_needs_no_label_in_validation(probe: Run, tmp_path: Path, checkpoint: Path) -> None:
    """What a cache holds does not depend on splits; a sweep over it says what they lack."""
    for number in range(12):
        Image.new("RGB", (40, 40), (20 * number, 90, 200 - 10 * number)).save(tmp_path / f"{number}.png")
    rows = [{"picture": f"{i}.png", "text": "A?", "label": "yes" if i % 2 else "no"} for i in range(8)]
    rows += [{"picture": f"{i}.png", "text": "A?", "label": "no"} for i in range(8, 12)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    named = [f"{i}.png,{'train' if i < 4 else 'test' if i < 8 else 'val'}" for i in range(12)]
    words = ("task=custom", "dataset=table", f"dataset.root={tmp_path}", "dataset.file=rows.json", "guards=note")
    words += (
        *tiny(checkpoint),
        "layers=lm",
        f"splits.file={listing(tmp_path, *named)}",
        "splits.near_duplicates=false",
    )
    code, _, err = probe("extract", *words)
    assert code == 0, err
    code, _, err = probe("sweep", *words)
    assert code == 1 and "seed 0: the val split has only the label no, two are needed" in err


BAD = {
    "line 2: found ',g,test', a group and its split are needed": ("seed,group,split", [",g,test"]),
    "line 3: group g is in the val split and, earlier, in test": (
        "seed,group,split",
        ["0,g,test", "0,g,val"],
    ),
    "line 1: the header is 'image,split', 'picture,split' is needed": ("image,split", ["1,test"]),
    "line 1: the header is '', 'picture,split'": ("", []),
    "line 3: picture 2 has the unknown split 'tets'; did you mean 'test'?": ("picture,split", ["1,test", "2,tets"]),
    "line 2: found '1', a picture and its split are needed": ("picture,split", ["1"]),
    "line 3: picture 1 is in the val split and, earlier, in test": ("picture,split", ["1,test", "1,val"]),
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_file_is_named_with_its_line(message: str, tmp_path: Path) -> None:
    header, rows = BAD[message]
    with pytest.raises(DataError) as caught:
        read_splits(Path(listing(tmp_path, *rows, header=header)))
    assert f"splits.csv, {message}" in str(caught.value)


def test_what_the_file_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not list the selected picture 3 \(000000000003.jpg\)"):
        Folds(file=listing(tmp_path, *(f"{i},train" for i in range(40) if i != 3))).assign(PICTURES)
    with pytest.raises(DataError, match="the test split has 0 of the 40 selected pictures, 2 different ones"):
        Folds(file=listing(tmp_path, *(f"{i},train" for i in range(40)))).assign(PICTURES)
    with pytest.raises(DataError, match="the val split has 0 of the 15 selected"):
        chosen = PICTURES[:10] + PICTURES[15:20]
        Folds(file=official(tmp_path, n_val=5)).assign(chosen)
    with pytest.raises(DataError, match="absent.csv cannot be read"):
        Folds(file=str(tmp_path / "absent.csv")).assign(PICTURES)


def test_near_duplicates_across_official_splits_are_refused(tmp_path: Path) -> None:
    pictures = list(PICTURES)
    pictures[30] = replace(pictures[30], group=pictures[2].group)
    message = r"pictures 2 \(test\) and 30 \(train\) belong to one group .* splits.near_duplicates=false"
    with pytest.raises(DataError, match=message):
        Folds(file=official(tmp_path, n_val=5)).assign(pictures)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="splits.unit=rows is unknown; did you mean 'row'?"):
        Folds(unit="rows")
    with pytest.raises(ConfigError, match="splits.unit=row ignores pictures, so splits.file=x.csv"):
        Folds(unit="row", file="x.csv")


def asked(per_picture: int = 2, pictures: list[Picture] = PICTURES, **folds: object) -> Examples:
    samples = {p.id: Sample.of([p], "Is it?", {}) for p in pictures}
    decisions = tuple(
        Decision(f"{p.id}/{k}", samples[p.id].uid, "t", k % 2, p.group) for p in pictures for k in range(per_picture)
    )
    return Examples(tuple(samples.values()), decisions, Folds(blocks=5).assign(pictures))


def test_an_empty_split_is_named_with_what_mends_it(tmp_path: Path) -> None:
    folds, examples = Folds(blocks=5), asked()
    untested = [d for d in examples.decisions if examples.folds[d.group] != TEST]
    with pytest.raises(DataError, match=r"seed 0: the test split is empty: .* take more pictures \(data.n\)"):
        folds.check(replace(examples, decisions=tuple(untested)), [0])
    fixed = Folds(file=official(tmp_path, n_val=5))
    examples = replace(asked(), folds=fixed.assign(PICTURES))
    wanting = [d for d in examples.decisions if examples.folds[d.group] != VAL]
    with pytest.raises(DataError, match=r"seed 0: the val split is empty: .* list more in splits.file="):
        fixed.check(replace(examples, decisions=tuple(wanting)), [0])


def test_what_is_tested_only_fills_no_split() -> None:
    folds, examples = Folds(blocks=5), asked()
    for change in ({"given": True}, {"template": "other"}):
        tested = [replace(d, **change) if examples.folds[d.group] == TEST else d for d in examples.decisions]
        with pytest.raises(DataError, match="the test split is empty"):
            folds.check(replace(examples, decisions=tuple(tested)), [0])
        folds.check(replace(examples, decisions=(*examples.decisions, *tested)), [0])


def test_a_picture_on_two_sides_is_named() -> None:
    folds, examples = Folds(blocks=5), asked()
    leaks(examples, folds, range(3))
    (test,) = [g for g, fold in examples.folds.items() if fold == TEST][:1]
    (block,) = [g for g, fold in examples.folds.items() if fold == 1][:1]
    first = next(d for d in examples.decisions if d.group == test)
    moved = (replace(first, group=block), *(d for d in examples.decisions if d is not first))
    with pytest.raises(DataError, match=rf"picture {int(test[1:]):012d}.jpg \(digest {test}\) is in"):
        leaks(replace(examples, decisions=moved), folds, [0])
    leaks(replace(examples, decisions=moved), replace(folds, unit="row"), [0])
    lost = (replace(first, group="mine"), *examples.decisions[1:])
    with pytest.raises(DataError, match="the group 'mine', which has no fold"):
        leaks(replace(examples, decisions=lost), folds, [0])


def test_two_blocks_of_one_picture_leak_only_where_a_seed_parts_them() -> None:
    folds, examples = Folds(blocks=5), asked()
    one, two = (next(g for g, fold in examples.folds.items() if fold == block) for block in (1, 2))
    first = next(d for d in examples.decisions if d.group == one)
    moved = replace(examples, decisions=(replace(first, group=two), *(d for d in examples.decisions if d != first)))
    parting = {seed: len({folds.splits(examples.folds, seed)[g] for g in (one, two)}) > 1 for seed in range(20)}
    assert set(parting.values()) == {True, False}
    leaks(moved, folds, [seed for seed, parts in parting.items() if not parts])
    with pytest.raises(DataError, match="decisions about one picture need one group"):
        leaks(moved, folds, [seed for seed, parts in parting.items() if parts][:1])


def test_rows_are_drawn_one_by_one() -> None:
    folds = Folds(blocks=5, unit="row")
    examples = rowwise(asked(per_picture=6), folds)
    assert [d.group for d in examples.decisions] == [d.uid for d in examples.decisions]
    assert set(examples.folds) == {d.uid for d in examples.decisions}
    assert sum(fold == TEST for fold in examples.folds.values()) == 60
    straddling = {
        p.id
        for p in PICTURES
        if len({examples.folds[d.uid] == TEST for d in examples.decisions if d.uid.startswith(f"{p.id}/")}) == 2
    }
    assert len(straddling) > 20
    folds.check(examples, [0])


def test_halves_of_a_contrast_pair_stay_one_row() -> None:
    examples = asked(per_picture=6)
    halves = tuple(
        replace(d, pair=d.uid[:-1] + str(k // 2), side=1 - 2 * (k % 2)) for k, d in enumerate(examples.decisions)
    )
    drawn = rowwise(replace(examples, decisions=halves), Folds(blocks=5, unit="row"))
    assert all(d.group == d.pair for d in drawn.decisions)
    assert set(Counter(d.group for d in drawn.decisions).values()) == {2}


def accuracy(examples: Examples, folds: Folds, features: np.ndarray, labels: np.ndarray) -> float:
    """Test accuracy of a logistic regression fitted on the training rows, over the seeds' mean."""
    right = []
    for seed in range(3):
        split = folds.splits(examples.folds, seed)
        side = np.array([split[d.group] for d in examples.decisions])
        fit = LogisticRegression(max_iter=2000).fit(features[side == "train"], labels[side == "train"])
        right.append(fit.score(features[side == "test"], labels[side == "test"]))
    return float(np.mean(right))


def test_labels_drawn_per_picture_are_learnt_only_where_rows_leak() -> None:
    """Each picture has a label by lot and several rows that share its look: there is nothing to learn but the look."""
    pictures = [Picture(str(i), Path(f"{i}.jpg"), f"d{i:03d}") for i in range(200)]
    examples = asked(per_picture=6, pictures=pictures)
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(200), 6)
    features = rng.standard_normal((200, 300))[owner] + 0.3 * rng.standard_normal((1200, 300))
    labels = rng.permutation(np.repeat([0, 1], 100))[owner]
    drawn = tuple(replace(d, label=int(y)) for d, y in zip(examples.decisions, labels, strict=True))
    by_picture = Folds(blocks=5)
    examples = replace(examples, decisions=drawn, folds=by_picture.assign(pictures))
    by_row = Folds(blocks=5, unit="row")
    assert abs(accuracy(examples, by_picture, features, labels) - 0.5) < 0.12  # 50 test pictures: 1.7 standard errors
    assert accuracy(rowwise(examples, by_row), by_row, features, labels) > 0.9


def test_few_pictures_of_several_labels_are_spread_over_the_splits() -> None:
    """40 pictures of three classes, and 30 of which 8 are rare: every split of every seed holds all labels, and each
    fold its share of them; drawn without a look at labels, many data seeds leave a split without one."""
    for labels, most in ((["a", "b", "c"] * 13 + ["a"], 1), (["x"] * 22 + ["y"] * 8, 1)):
        pictures = PICTURES[: len(labels)]
        strata = dict(zip((picture.group for picture in pictures), labels, strict=True))
        lacking = 0
        for seed in range(30):
            folds = Folds(blocks=5, seed=seed)
            for given in (strata, None):
                assigned = folds.assign(pictures, given)
                splits = [folds.splits(assigned, each) for each in range(5)]
                held = [{(split[group], strata[group]) for group in split} for split in splits]
                whole = all(len(one) == 3 * len(set(labels)) for one in held)
                assert whole or given is None
                lacking += not whole
            spread = Counter((folds.assign(pictures, strata)[group], label) for group, label in strata.items())
            for label in set(labels):
                sizes = [spread[fold, label] for fold in range(1, 6)]
                assert max(sizes) - min(sizes) <= most
        assert lacking > 3


def test_one_stratum_changes_no_split() -> None:
    folds = Folds(blocks=5)
    assert folds.assign(PICTURES, {p.group: "same" for p in PICTURES}) == folds.assign(PICTURES)
