"""The Python interface against the command line, byte for byte, and plain safetensors; its documents are executed."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from safetensors import safe_open

from mllm_probe import extract, load_cache, load_scores, run
from mllm_probe.api import Result
from mllm_probe.errors import CacheError, ConfigError, DataError, MllmProbeError
from mllm_probe.results.score_file import COLUMNS, DTYPES
from tests.support.runs import QUICK, Run, stored, tiny

DOCS = Path(__file__).resolve().parents[1] / "docs"
CLOCKS = ("beat", "ended", "note", "started")


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_importing_is_light() -> None:
    code = (
        "import sys, mllm_probe\n"
        "from mllm_probe import extract, load_cache, load_scores, run, sweep\n"
        "assert callable(extract) and callable(run)\n"
        "assert not {'torch', 'pandas', 'hydra', 'numpy', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_run_does_what_the_command_does(
    probe: Run, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The API first, inside a running event loop and inside another program's Hydra, so that it extracts itself."""
    words = (*tiny(checkpoint), *QUICK, "task=objects", "task.per_category=null", "splits.blocks=3")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "theirs.yaml").write_text("their: 1\n")
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        theirs = GlobalHydra.instance().hydra

        async def cell() -> Result:
            return run(*words, out="a 'run'", quiet=True)

        result = asyncio.run(cell())
        assert GlobalHydra.instance().hydra is theirs and compose("theirs").their == 1
    assert capsys.readouterr() == ("", "") and not GlobalHydra.instance().is_initialized()
    assert result.folder == tmp_path / "a 'run'"

    assert probe("run", *words)[0] == 0
    (other,) = (tmp_path / "outputs" / "run").glob("*/*")
    assert names(result.folder) == names(other) - {"run.log"}
    same = ("scores.csv", "tests.csv", "splits.csv", "predictions.safetensors", "probes.safetensors", "layers.png")
    for name in (*same, "config.yaml", "identity.json", ".hydra/config.yaml", ".hydra/overrides.yaml"):
        assert (result.folder / name).read_bytes() == (other / name).read_bytes(), name
    said = [json.loads((folder / "status.json").read_text()) for folder in (result.folder, other)]
    assert {k: v for k, v in said[0].items() if k not in CLOCKS} == {
        k: v for k, v in said[1].items() if k not in CLOCKS
    }
    assert said[0]["state"] == "done" and said[0]["overrides"] == list(words)

    scores = result.scores
    assert tuple(scores.columns) == COLUMNS and scores.dtypes.astype(str).to_dict() == DTYPES
    assert scores[scores.site == ""].layer.isna().all() and scores.equals(load_scores(result.folder / "scores.csv"))
    assert result.summary["run"] == scores.run[0] and result.figure.is_file()
    assert result._repr_png_() == (other / "layers.png").read_bytes()
    check_decisions(result)
    check_sides(result, tmp_path / "study")


def check_sides(one: Result, place: Path) -> None:
    """A study of the same run twice."""
    for side in ("global", "local"):
        shutil.copytree(one.folder, place / side)
    (place / "study.json").write_text(json.dumps({"position": "last", "statements": []}))
    study = Result(place)
    assert len(study.scores) == 2 * len(one.scores) and study.summary["position"] == "last"
    assert [side.folder.name for side in study.sides] == ["global", "local"] and study.figure.name == "study.png"
    assert study.cache.identity == one.cache.identity
    with pytest.raises(DataError, match="scores.csv does not exist"):
        load_scores(place.parent)


def check_decisions(result: Result) -> None:
    """Labels belong to rows: probes.safetensors repeats the logits of predictions.safetensors from the cache's rows."""
    asked = result.decisions
    assert len(asked) == result.summary["decisions"] and set(asked["sample"]) <= set(result.cache.samples)
    values, offsets = result.cache.rows("lm.04@last", asked["sample"])
    assert values.dtype == np.float32 and offsets.tolist() == list(range(len(asked) + 1))
    with safe_open(result.folder / "probes.safetensors", "np") as fits:
        fit = {name: fits.get_tensor(f"lm.04@last/logistic/seed0/{name}") for name in ("mean", "scale", "weights")}
    with safe_open(result.folder / "predictions.safetensors", "np") as file:
        logits = file.get_tensor("lm.04@last/logistic/seed0")
    weights = fit["weights"].ravel()
    again = (values - fit["mean"]) / fit["scale"] @ weights[: values.shape[1]]
    assert np.ptp(logits - again) < 1e-3 * max(1.0, np.ptp(logits)), "equal up to the bias"


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (("task=object",), ConfigError, "task=object is unknown; did you mean 'objects'"),
        (("sweep.sed=1",), ConfigError, "'sweep.sed' is no setting of `run`"),
        (("task=",), ConfigError, "task="),
        (
            ("-m", "task=entailment,objects"),
            ConfigError,
            "'-m' is for the command line; call run once for each combination",
        ),
        (("hydra.mode=MULTIRUN",), ConfigError, "is for the command line"),
        (("layers.range=[2,99]",), ConfigError, "layers.range=.* is out of range"),
        (("paths.outputs=file",), MllmProbeError, "cannot use .*file.*names another place for results"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_errors_are_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], kind: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(kind, match=message):
        run("experiment=smoke", *words)
    assert not GlobalHydra.instance().is_initialized()
    for path in tmp_path.rglob("status.json"):
        assert json.loads(path.read_text())["state"] == "failed"


def test_the_cache_as_arrays(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row for row what the shards hold, bfloat16 exactly, rows of tokens by their bounds."""
    monkeypatch.chdir(tmp_path)
    words = (*tiny(checkpoint), "experiment=smoke", "data.n=12", "dataset.pictures=12", "splits.blocks=2")
    cache = extract(*words, "extract.positions=[last,mean_image,'tokens:text']", quiet=True)
    for key in ("lm.04.norm@last", "lm.00@last"):
        rows, (values, _) = stored(cache.folder, key), cache.rows(key)
        np.testing.assert_array_equal(values, np.stack([rows[uid] for uid in cache.samples]))
    turned = [*cache.samples[::-1], cache.samples[0]]
    values, bounds = cache.rows("lm.04@tokens:text", turned)
    assert values.shape == (bounds[-1], 64) and len(bounds) == len(turned) + 1
    [path] = cache.folder.glob("groups/*/*.safetensors")
    with safe_open(path, "np") as shard:
        uids = json.loads(shard.metadata()["index"])["sample"]
        tokens, starts = (shard.get_tensor(f"lm.04@tokens:text{end}") for end in ("", "#rows"))
    for i, uid in enumerate(turned):
        at = uids.index(uid)
        np.testing.assert_array_equal(values[bounds[i] : bounds[i + 1]], tokens[starts[at] : starts[at + 1]])
    assert len(np.unique(np.diff(bounds))) > 1, "captions differ in length"
    pictures, _ = cache.rows("connector@mean_image")
    assert len(pictures) == len(cache.samples) > len(np.unique(pictures, axis=0)), "one row serves a picture's samples"

    half = extract(*words, "extract.dtype=bfloat16", "extract.positions=[last]", quiet=True)
    import torch

    whole = torch.from_numpy(cache.rows("lm.04@last", half.samples)[0])
    np.testing.assert_array_equal(half.rows("lm.04@last")[0], whole.bfloat16().float().numpy())
    assert load_cache(half.identity).fields["storage"] == "bfloat16" and load_cache(half.folder).keys == half.keys
    with pytest.raises(CacheError, match=r"'lm.04@lsat' is no key of .*; did you mean 'lm.04@last'\?"):
        cache.rows("lm.04@lsat")
    with pytest.raises(CacheError, match="of sample nobody is not in"):
        cache.rows("lm.04@last", ["nobody"])
    with pytest.raises(CacheError, match=f"there is no cache abc in outputs/cache, which has .*{half.identity}"):
        load_cache("abc")
    with pytest.raises(CacheError, match="there is no cache abc in elsewhere/cache, which has none"):
        load_cache("abc", outputs="elsewhere")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for both documents, so that the second one finds its activations."""
    return tmp_path_factory.mktemp("docs")


def test_the_document_holds(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL):
        exec(compile(block, "python.md", "exec"), found)
    assert found["curve"].site.tolist() == ["lm.00", "lm.04", "lm.08", "lm.12"]
    values, _ = found["cache"].rows(found["key"])
    plain = [found["rows"][uid] for uid in found["cache"].holding(found["key"])]
    np.testing.assert_array_equal(values, np.stack(plain))


def test_the_notebook_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell in one namespace, as a kernel would, without the packages that a kernel needs."""
    monkeypatch.chdir(place)
    notebook = json.loads((DOCS / "notebook.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), "outputs are stripped"
    found: dict[str, Any] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), cell["id"], "exec"), found)
    assert found["own"][0] == 0.5 and found["own"][8] > 0.85
    assert [line.get_ydata()[0] for line in found["axes"].lines] == [0.5, 0.5]


def test_a_quiet_run_stays_quiet_in_processes_it_starts() -> None:
    from mllm_probe.config.verbosity import VARIABLE, speaking

    before = os.environ.get(VARIABLE)
    with speaking("quiet"):
        said = subprocess.run([sys.executable, "-c", LINES], capture_output=True, text=True, check=True).stderr
    assert said == "[shard 0] an error\n" and os.environ.get(VARIABLE) == before


LINES = "from mllm_probe.experiment.processes import Lines; one = Lines(0); one.note('a note'); one.say('an error')"
