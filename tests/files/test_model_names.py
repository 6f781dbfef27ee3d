"""What results call a model: the name given, the hub's, a folder that says something, or what was trained of what."""

import json
import shutil
from pathlib import Path

import pytest

from mllm_probe.config.compose import composed
from mllm_probe.config.model import ModelSettings
from mllm_probe.files.jobs import Asked, Job, read
from mllm_probe.files.model_names import called
from mllm_probe.results.score_file import load_scores
from mllm_probe.vision.model_reads import named_model
from tests.support.runs import QUICK, Run, tiny

HASH = "b234b804b114d9e37bb655e11cbbb5f5e971b7a9"
FOLDERS = {
    "/x/my-llava": "my-llava",
    "/x/my-llava/": "my-llava",
    f"/hub/models--llava-hf--llava-1.5-7b-hf/snapshots/{HASH}": "llava-hf/llava-1.5-7b-hf",
    f"/hub/models--gpt2/snapshots/{HASH}": "gpt2",
    "/x/models--llava-hf--llava-1.5-7b-hf": "llava-hf/llava-1.5-7b-hf",
    "/x/ft/checkpoint-500": "ft/checkpoint-500",
    "/x/ft/2026-11-30/05-01-02/checkpoint": "ft/2026-11-30/05-01-02/checkpoint",
    f"/x/ft/{HASH}": f"ft/{HASH}",
    "/": "custom",
    "/7": "7",
}
LLAVA = "llava-hf/llava-1.5-7b-hf"
WORDS = {
    (): "mini",
    ("model=mini_base",): "mini_base",
    ("model=llava",): "llava",
    ("model=llava", "model.path=/x/mine"): "mine",
    ("model=llava", "model.path=/x/mine", "model.name=llava"): "llava",
    ("model=llava", "model.hub_id=me/mine"): "me/mine",
    ("model=custom", f"model.hub_id={LLAVA}"): LLAVA,
    ("model=custom", "model.path=/x/mine"): "mine",
    ("model=custom", "model.path=/x/mine", "model.name=mini"): "mini",
    ("model=custom", "model.path=/x/mine", "++model.name=ours"): "ours",
    ("model.bundled=mini_base",): "mini_base",
    ("model.weights=random",): "mini-random",
    ("model=custom", "model.path=/x/mine", "model.weights=random"): "mine-random",
    ("model.adapter=/x/tuned/checkpoint",): "mini+tuned/checkpoint",
    ("model.adapter=/x/mine", "model.name=ours"): "ours",
}


@pytest.mark.parametrize(("folder", "name"), FOLDERS.items())
def test_a_folder_that_says_nothing_is_not_a_name(folder: str, name: str) -> None:
    assert ModelSettings(path=folder).label == name


def test_the_folder_one_stands_in_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert [ModelSettings(path=path).label for path in (".", "./", "a/..")] == [tmp_path.name] * 3
    assert ModelSettings(path="~/mine").label == "mine" and ModelSettings(adapter="~/mine").label == "custom+mine"


@pytest.mark.parametrize(("words", "name"), WORDS.items(), ids=" ".join)
def test_the_name_that_is_given_goes_first(words: tuple[str, ...], name: str) -> None:
    assert composed("run", words).model.label == name


@pytest.mark.parametrize("job", ["tune", "vision_score"])
def test_other_commands_have_the_same_rule(job: str) -> None:
    assert composed(job, ("model=llava", "model.path=/x/mine")).model.label == "mine"
    assert composed(job, ("model=llava", "model.path=/x/mine", "model.name=llava")).model.label == "llava"


def test_a_trained_model_is_its_base_and_what_was_trained(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "mine").mkdir()
    for training, what in (({"connector": "dci"}, "dci"), ({"arm": "lg"}, "sugar_lg")):
        told = json.dumps({"base": "d", "model": "llava", "class": "C", "training": training})
        for folder, name in (("checkpoint", what), ("mine", "mine")):
            (tmp_path / folder / "origin.json").write_text(told)
            assert called(None, None, "other", None, str(tmp_path / folder)) == f"llava+{name}"
            own = name if folder == "mine" else f"llava+{name}"
            assert called(None, str(tmp_path / folder), None, None, None) == own
    for damaged in ("", "[]", "{}", '{"model": "a", "training": []}', '{"model": "a", "training": {}}'):
        (tmp_path / "checkpoint" / "origin.json").write_text(damaged)
        assert called(None, str(tmp_path / "checkpoint"), None, None, None) == f"{tmp_path.name}/checkpoint"


def test_the_models_of_representations_have_names_by_the_same_rule(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    names = {str(tmp_path / "checkpoint"): f"{tmp_path.name}/checkpoint", "mini": "mini", "a/b": "a/b"}
    assert {given: named_model(ModelSettings(name="x"), given).label for given in names} == names


LESS = (*QUICK, "layers.towers=[lm]", "layers.stride=4", "sweep.seeds=[0]", "controls=none", "guards=note")


def test_names_change_no_identity(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    one, other = (shutil.copytree(checkpoint, tmp_path / name / "checkpoint") for name in "ab")
    (other / "origin.json").write_text(json.dumps({"model": "mini", "training": {"connector": "dci"}}))
    runs = {"one": (one, ()), "other": (other, ()), "named": (one, ("model.name=nan",))}
    for folder, (path, more) in runs.items():
        code, _, err = probe("run", *tiny(path), *LESS, *more, f"hydra.run.dir={folder}")
        assert code == 0, err
    tables = [load_scores(Path(folder, "scores.csv")) for folder in runs]
    assert [set(table.model) for table in tables] == [{"a/checkpoint"}, {"mini+dci"}, {"nan"}]
    assert len({(*table.run, *table.cache) for table in tables}) == 1
    assert len(list(Path("outputs/cache").glob("*/identity.json"))) == 1


def test_a_multirun_asks_for_names_before_a_job_starts(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    folders = [shutil.copytree(checkpoint, tmp_path / name / "tiny") for name in "ab"]
    where = f"model.path={','.join(map(str, folders))}"
    args = ("task=entailment", "model=custom", where, "data.n=30", "dataset.pictures=30", "hydra.sweep.dir=both")
    code, _, err = probe("inspect", "-m", *args)
    assert code == 1 and err.strip().splitlines()[-1] == (
        "mllm-probe: models with different model.path would all be called tiny; add 'model.name=${model.path}', or "
        "run a separate command with a model.name for each; no job was started"
    )
    assert not Path("both").exists()
    code, _, err = probe("inspect", "-m", *args, "model.name=${model.path}")
    assert code == 0, err
    names = [json.loads(path.read_text())["model"] for path in sorted(Path("both").glob("*/inspect.json"))]
    assert names == list(map(str, folders))
    asked, job = read(Asked, Path("both/multirun.json")), read(Job, Path("both/0/status.json"))
    assert asked and job and job.overrides == asked.jobs[0] and "model.name=None" not in job.overrides


def test_compare_asks_for_names(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folders = [shutil.copytree(checkpoint, tmp_path / name / "tiny") for name in "ab"]
    weights = load_file(folders[1] / "model.safetensors")
    save_file({name: torch.flip(value, [0]) for name, value in weights.items()}, folders[1] / "model.safetensors")
    for folder in folders:
        code, _, err = probe("run", *tiny(folder), *LESS, f"hydra.run.dir=runs/{folder.parent.name}")
        assert code == 0, err
    asked = (
        "entailment: models with different model.path are all called tiny; to give each its own name, repeat its "
        "command with model.name=NAME (its activations are in the cache)"
    )
    code, _, err = probe("compare", "runs", "--out", "o")
    assert code == 0 and asked in err, err
    assert probe("run", *tiny(folders[1]), *LESS, "model.name=other", "hydra.run.dir=runs/b")[0] == 0
    code, out, err = probe("compare", "runs", "--out", "o")
    assert code == 0 and asked not in err and "other" in out, err
