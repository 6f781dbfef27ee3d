"""Real COCO pictures and captions, where they are at hand (MLLM_PROBE_REAL_DATA names their folder)."""

from collections import Counter
from pathlib import Path

import pytest

from mllm_probe.data.coco import Coco, Selection
from mllm_probe.files.digests import Digests
from mllm_probe.records.samples import Collection
from mllm_probe.tasks.entailment import Entailment
from mllm_probe.tasks.objects import Objects
from mllm_probe.tasks.splits import Folds
from tests.support.checkpoints import blueprint_of
from tests.support.questions import balance
from tests.support.runs import REAL, Silent

COCO = REAL / "coco_subset"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not COCO.is_dir(), reason=f"{COCO} is absent; set MLLM_PROBE_REAL_DATA to the folder with it"),
]


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    place = tmp_path_factory.mktemp("coco")
    return Coco(root=str(COCO)).load(place, Selection(), Digests(place / "digests.json"))


def test_the_subset_is_read_whole(coco: Collection) -> None:
    assert len(coco.pictures) == 188 and len(coco.categories) == 80 and not coco.skipped
    assert sum(len(picture.captions) for picture in coco.pictures) == 940
    bare = {picture.id for picture in coco.pictures if not picture.categories}
    assert bare == {"58636", "226111"}


@pytest.mark.parametrize("seed", range(3))
def test_both_tasks_are_balanced_on_real_annotations(coco: Collection, seed: int) -> None:
    folds = Folds()
    examples = Entailment().examples(coco, folds)
    cells = balance(examples, folds.splits(examples.folds, seed), "text")
    assert len(examples.decisions) == 2 * 2 * 188
    assert all(labels[0] == labels[1] for labels in cells.values())
    examples = Objects().examples(coco, folds)
    cells = balance(examples, folds.splits(examples.folds, seed), "category")
    assert all(labels[0] == labels[1] for labels in cells.values())
    assert len({d.strata["category"] for d in examples.decisions}) > 60
    assert Counter(d.label for d in examples.decisions)[1] > 300


def test_real_captions_keep_their_spans(coco: Collection, checkpoint: Path) -> None:
    blueprint = blueprint_of(checkpoint)
    samples = Entailment().examples(coco, Folds()).samples[:60]
    for sample in samples:
        inputs = blueprint.process([sample])
        ids = inputs["input_ids"][0].tolist()
        (layout,) = blueprint.layouts([sample], inputs)
        stop = sample.marks["caption"][1]
        ((last,),) = layout.rows("mark:caption")
        decoded = blueprint.processor.tokenizer.decode(ids[: last + 1])
        assert decoded.endswith(sample.text[:stop])


def test_coco_runs_end_to_end(coco: Collection, checkpoint: Path, tmp_path: Path) -> None:
    from mllm_probe.commands.run import run
    from mllm_probe.files.paths import RunPaths
    from tests.support.configs import composed

    config = composed(
        "task=entailment",
        "dataset=coco",
        f"dataset.root={COCO}",
        "data.n=40",
        "model=custom",
        f"model.path={checkpoint}",
        "model.dtype=float32",
        "splits.blocks=4",
        "layers=every4",
        "sweep.draws=50",
        f"paths.outputs={tmp_path}",
    )
    run(config, RunPaths(tmp_path), Silent())
    assert (tmp_path / "scores.csv").stat().st_size > 1000
