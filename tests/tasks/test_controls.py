"""The shuffled picture is that of another group: drawn films, near-duplicates, equal bytes, and where it cannot be."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllm_probe.errors import DataError
from mllm_probe.records.samples import Decision, Examples, Picture, Sample
from mllm_probe.tasks.controls import shares, shuffled_picture
from tests.support.runs import Run

ANSWERS = ("rain", "snow", "sun")


def films(sizes: list[int], folds: int, texts: int = 1) -> tuple[Examples, dict[str, str]]:
    """Films of so many frames, a class a film, `texts` questions a frame; and {picture digest: film}."""
    samples, decisions, film_of = [], [], {}
    for film, size in enumerate(sizes):
        for frame in range(size):
            picture = Picture(f"{film}-{frame}", Path(f"{film}-{frame}.png"), f"d{film}-{frame}", group=f"film {film}")
            film_of[picture.digest] = picture.group
            for text in range(texts):
                sample = Sample.of([picture], f"question {text}", {})
                samples.append(sample)
                decisions.append(Decision(f"{sample.uid}!", sample.uid, "weather", film % 3, picture.group))
    fold_of = {f"film {film}": film % folds for film in range(len(sizes))}
    return Examples(tuple(samples), tuple(decisions), fold_of, "classes"), film_of


def shown(before: Examples, after: Examples) -> list[tuple[str, str]]:
    """(own picture, picture shown) of every decision."""
    own, now = ({s.uid: s.digests[0] for s in each.samples} for each in (before, after))
    return [(own[a.sample], now[b.sample]) for a, b in zip(before.decisions, after.decisions, strict=True)]


@pytest.mark.parametrize("seed", range(5))
def test_no_film_is_shown_a_frame_of_its_own(seed: int) -> None:
    """24 films of 8 frames, of which a shuffle by picture shows 35 % of rows a frame of their own film."""
    examples, film_of = films([8] * 24, folds=6, texts=2)
    after = shuffled_picture(examples, seed)
    pairs = set(shown(examples, after))
    assert all(film_of[mine] != film_of[other] for mine, other in pairs)
    folds = examples.folds
    assert all(folds[film_of[mine]] == folds[film_of[other]] for mine, other in pairs)
    assert max(Counter(other for _, other in pairs).values()) == 1 and len(pairs) == 24 * 8
    assert len({(film_of[mine], film_of[other]) for mine, other in pairs}) > 2 * 24, "frames of a film part company"
    right = sum(folds_label(film_of[a]) == folds_label(film_of[b]) for a, b in pairs) / len(pairs)
    assert shares(examples, after, {}) == {"own_group": 0.0, "same_answer": pytest.approx(right)}


def folds_label(film: str) -> int:
    return int(film.split()[1]) % 3


def test_pictures_that_look_alike_are_a_group_whatever_the_task_calls_it() -> None:
    """splits.unit=row makes a group of every row and cuts through pictures; the pictures' own groups still hold."""
    examples, film_of = films([4] * 6, folds=1, texts=2)
    rows = tuple(replace(d, group=d.uid) for d in examples.decisions)
    byrow = replace(examples, decisions=rows, folds={d.uid: i % 3 for i, d in enumerate(rows)})
    after = shuffled_picture(byrow, 0, film_of)
    assert all(film_of[mine] != film_of[other] for mine, other in shown(byrow, after))
    assert shares(byrow, after, film_of)["own_group"] == 0


def test_equal_bytes_are_one_picture() -> None:
    """Two files with one digest: neither serves as the other."""
    examples, _ = films([1] * 6, folds=1)
    first = examples.samples[0]
    twin = replace(first, uid="twin", images=(Path("copy.png"),), text="question 1")
    decision = replace(examples.decisions[0], uid="twin!", sample="twin")
    both = replace(examples, samples=(*examples.samples, twin), decisions=(*examples.decisions, decision))
    pairs = shown(both, shuffled_picture(both, 0))
    assert all(mine != other for mine, other in pairs)
    assert len({other for mine, other in pairs if mine == first.digests[0]}) == 1


@pytest.mark.parametrize(("sizes", "kept"), [([6, 2, 2], 2), ([7, 1], 6), ([3, 3], 0)])
def test_as_few_as_can_be_keep_their_group(sizes: list[int], kept: int) -> None:
    """With m of n pictures in one group at least 2 m - n of them must be shown one of their own; never themselves."""
    examples, film_of = films(sizes, folds=1)
    after = shuffled_picture(examples, 0)
    pairs = shown(examples, after)
    assert sum(film_of[mine] == film_of[other] for mine, other in pairs) == kept
    assert all(mine != other for mine, other in pairs) and len({other for _, other in pairs}) == sum(sizes)
    assert shares(examples, after, {})["own_group"] == kept / sum(sizes)


def test_a_fold_of_one_group_is_refused() -> None:
    examples, _ = films([4, 4, 4], folds=2)
    with pytest.raises(DataError, match=r"fold 1 has 4 pictures of one group"):
        shuffled_picture(examples, 0)


def test_a_run_knows_near_duplicates_that_its_splits_do_not_keep_together(probe: Run, tmp_path: Path) -> None:
    """Films 0 and 1 are one scene in two lights: 4 of the 5 test pictures, so 2 x 4 - 5 of them see their own scene."""
    rows, splits = [], ["picture,split"]
    films = [(2, "test", 0), (2, "test", 0), (1, "test", 1), *[(2, "train", n) for n in range(2, 6)]]
    for film, (size, split, scene) in enumerate([*films, (1, "val", 6), (1, "val", 7)]):
        noise = np.random.default_rng(scene).integers(60, 200, (4, 4, 3), dtype=np.uint8)
        for frame in range(size):
            name = f"{film}-{frame}.png"
            Image.fromarray(noise + np.uint8(2 * film + frame)).resize((64, 64), Image.Resampling.BICUBIC).save(
                tmp_path / name
            )
            rows.append(
                {"picture": name, "text": "Is it?", "label": ("yes", "no")[(film + frame) % 2], "film": str(film)}
            )
            splits.append(f"{name},{split}")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "splits.csv").write_text("\n".join(splits))
    args = (f"dataset.root={tmp_path}", "dataset.file=rows.jsonl", "dataset.group_column=film", "guards=note")
    more = (
        "controls=[shuffled_picture]",
        "extract.positions=[last]",
        f"splits.file={tmp_path}/splits.csv",
        "splits.near_duplicates=false",
    )
    code, _, err = probe("run", "experiment=smoke", "task=custom", *args, *more, "layers.range=[7,8]")
    assert code == 0, err
    told = json.loads(next((tmp_path / "outputs" / "run").rglob("summary.json")).read_text())["controls"]
    assert told["shuffled_picture"]["own_group"] == pytest.approx(3 / 15)
    assert "shuffled_picture: 20 % of rows get a picture of their own group" in err
