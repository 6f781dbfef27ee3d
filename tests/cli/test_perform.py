"""The command line as a user meets it: results, hits, sweeps, and every error as one sentence."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hydra._internal.hydra import Hydra

from mllm_probe.cli.perform import limit_threads
from mllm_probe.files.paths import config_dir
from mllm_probe.results.score_file import COLUMNS, load_scores
from tests.support.checkpoints import save_llava
from tests.support.pictures_on_disk import coco_folder
from tests.support.runs import QUICK, Run, tiny


def runs(folder: Path) -> list[Path]:
    return sorted((folder / "outputs" / "run").glob("*/*"))


def test_run_writes_everything_and_the_second_run_loads_nothing(
    probe: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = probe("run", *tiny(checkpoint), *QUICK)
    assert code == 0, err
    assert "lm.04.norm" in out and "question_only" in out
    told = " ".join(out.split())
    assert "lm.04 at last" in told or "At last, no block reads" in told
    assert os.environ["HYDRA_FULL_ERROR"] == ""  # what this process starts later shows no traces either
    (first,) = runs(tmp_path)
    names = {"scores.csv", "summary.json", "config.yaml", "splits.csv", "layers.png", "layers.pdf"}
    assert names | {"predictions.safetensors", "probes.safetensors"} <= {path.name for path in first.iterdir()}
    cache = {
        p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "outputs" / "cache").rglob("*") if p.is_file()
    }

    monkeypatch.setattr("mllm_probe.models.hf.Blueprint.__init__", lambda *_: pytest.fail("a hit loads no model"))
    code, _, err = probe("run", *tiny(checkpoint), *QUICK)
    assert code == 0 and "all 1" in err and "are there" in err
    assert cache == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in cache}
    second = runs(tmp_path)[1]
    for name in (
        "scores.csv",
        "splits.csv",
        "predictions.safetensors",
        "probes.safetensors",
        "layers.png",
        "layers.pdf",
    ):
        assert (first / name).read_bytes() == (second / name).read_bytes(), f"{name} differs between equal runs"

    code, out, _ = probe("report", str(first))
    assert code == 0 and "lm.04.norm" in out


def test_the_csv_keeps_its_contract(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, _, err = probe("run", *tiny(checkpoint), "model.quantization=nf4", *QUICK, "sweep.seeds=[0,1]")
    assert code == 0, err
    (folder,) = runs(tmp_path)
    table = load_scores(folder / "scores.csv")
    contract = (
        "run cache model revision quantization dataset task target subset site tower layer part depth position "
        "features probe control train_template test_template seed split metric n n_groups n_train lambda converged "
        "value low high ci_level p_value p_holm family headline"
    )
    assert tuple(contract.split()) == COLUMNS == tuple(table.columns)
    assert set(table.seed) == {"0", "1", "all"} and set(table.split) == {"val", "test"}
    whole = table[table.seed == "all"]
    bounded = whole[whole.low.notna()]
    assert (bounded.low <= bounded.value + 1e-9).all() and (bounded.value <= bounded.high + 1e-9).all()
    shares = whole[(whole.metric == "accuracy") & (whole.probe != "constant") & (whole.family != "by design")]
    assert shares.low.notna().all() and (shares.high > shares.low).all(), "a share has an interval that is not a point"
    words = whole[(whole.control == "question_only") & (whole.metric == "accuracy")]
    assert words.value.tolist() == [0.5], "matched texts say nothing"
    own = whole[whole.features == "single"]
    floor = own[(own.position == "last") & (own.site == "lm.00") & (own.metric == "accuracy")]
    assert set(floor.control) == {"", "control_task"}
    assert floor[floor.control == ""].value.tolist() == [0.5], "the last token's embedding is the same for all"
    tested = whole[whole.p_holm.notna()]
    designed = whole[(whole.family == "by design") & (whole.control == "") & (whole.site != "")]
    named = [set(rows.site + "@" + rows.position) for rows in (whole[whole.site != ""], designed, tested)]
    assert named[2] == named[0] - named[1] and "lm.00@last" in named[1]
    assert (tested.metric == "accuracy").all() and (tested.control == "").all()
    assert (tested.p_value <= tested.p_holm).all() and set(tested.family) == {f"{len(tested)} keys"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["decisions"] == summary["samples"] == summary["extraction"]["samples"]
    assert summary["provenance"]["quantized_modules"] and all(
        ".language_model.layers." in name for name in summary["provenance"]["quantized_modules"]
    )
    splits = pd.read_csv(folder / "splits.csv")
    assert (splits.groupby(["seed", "group"]).split.nunique() == 1).all()


def test_extract_then_sweep_equals_run(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    args = (*tiny(checkpoint), *QUICK, "task=objects", "task.per_category=null", "splits.blocks=3")
    code, _, err = probe("sweep", *args)
    assert code == 1 and "run `mllm-probe extract` with the same settings first" in err
    assert probe("extract", *args)[0] == 0
    assert probe("sweep", *args)[0] == 0
    assert probe("run", *args)[0] == 0
    (swept,) = (tmp_path / "outputs" / "sweep").rglob("scores.csv")
    assert swept.read_bytes() == (runs(tmp_path)[0] / "scores.csv").read_bytes()


def test_multirun_shares_the_cache(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, _, err = probe("run", "-m", *tiny(checkpoint), *QUICK, "task=entailment,objects", "splits.blocks=3")
    assert code == 0, err
    found = sorted((tmp_path / "outputs" / "multirun").rglob("scores.csv"))
    assert [load_scores(path).task.iloc[0] for path in found] == ["entailment", "objects"]
    assert len(list((tmp_path / "outputs" / "cache").glob("*/identity.json"))) == 1


COMPOSED = [
    (
        ("model=lava",),
        r"model=lava is unknown; did you mean 'llava'\? choose one of: blip2, .*, fast_vlm, .*, mini_base, ",
    ),
    (("task=object",), r"task=object is unknown; did you mean 'objects'\?"),
    (
        ("dataset=cocoo",),
        r"dataset=cocoo is unknown; did you mean 'coco'\? choose one of: coco, hub, pope, scenes, table",
    ),
    (("experiment=smok",), "experiment=smok is unknown; did you mean 'smoke'"),
    (("+task.seed=5",), "'seed' of .*Entailment cannot be set here; it follows data.seed"),
    (("sweep.seeds=[1,1]",), r"sweep.seeds=\[1, 1\] must hold at least one seed, each once"),
    (("extract.positions=[]",), r"extract.positions=\[\] must hold at least one"),
    (("layers.towers=[]",), r"layers.towers=\[\] must hold at least one"),
    (("extract.positions=[mark:verb]",), "mark 'verb' is not in this task's text; choose one of: caption"),
    (("model.attn=fast",), "model.attn=fast is unknown; choose one of: eager"),
    (("probe.lambdas=[nan]",), "probe.lambdas=nan must be a finite number"),
    (("task=null",), "task=null must name an option, such as task=count"),
    (("model=mini,llava",), "add -m"),
    (("probe=svm",), "probe=svm is unknown; choose one of: .*logistic, majority"),
    (("modle=mini",), "'modle' is no setting of `run`; did you mean 'model'"),
    (
        ("sweep.sed=1",),
        r"'sweep.sed' is no setting of `run`; did you mean 'seeds'\? choose one of: analyses, baseline, ci_level",
    ),
    (("experiment=sugar_arms",), "experiment=sugar_arms sets target, which `mllm-probe run` does not have"),
    (("+typo=1",), "'typo' is no setting"),
    (("+model.typo=1",), "'model.typo' is no setting"),
    (("task.tmplate=x",), "'task.tmplate' is no setting of `run`; did you mean 'template'"),
    (("sweep.draws=many",), "sweep.draws=many must be a whole number"),
    (("sweep.draws=0",), "sweep.draws=0 must be 1 to 1,000,000"),
    (("sweep.permutations=2000000",), "sweep.permutations=2000000 must be 1 to 1,000,000"),
    (("sweep.margin=0",), "sweep.margin=0.0 must be between 0 and 1"),
    (("controls=[control]",), "controls names 'control', which is unknown; .*choose one of: blank_picture"),
    (("sweep.analyses=[mdll]",), "names 'mdll', which is unknown; did you mean 'mdl'"),
    (
        ("sweep.analyses=[v_information]", "sweep.baseline=lm.77@last"),
        "sweep.baseline=lm.77@last is not among the keys",
    ),
    (("extract.positions=['tokens:text']",), "and probe=logistic reads one row a decision; choose probe=attention"),
    (("probe.lambdas=3",), "probe.lambdas=3 must be a list in brackets"),
    (("probe.lambdas=[a]",), "probe.lambdas='a' must be a number"),
    (("device=cuda",), "torch sees no CUDA device here; use device=cpu"),
    (("device=tpu",), "device=tpu is unknown; .*choose one of: auto, cpu, cuda"),
    (("layers.range=[2,99]",), r"layers.range=\[2, 99\] is out of range: the vision tower has the layers 0 to"),
    (("extract.positions=[first]",), "position 'first' is unknown"),
    (("dataset=coco",), "dataset=coco needs dataset.root=FOLDER"),
    (("dataset=coco", "dataset.root=nowhere"), "no COCO annotations in nowhere"),
    (("model.path=nowhere",), "the checkpoint folder nowhere does not exist"),
    (
        ("model=llava",),
        "model.hub_id=llava-hf/llava-1.5-7b-hf is not on this machine, and HF_HUB_OFFLINE is set; .*model.path=FOLDER",
    ),
    (("model=custom", "model.path=null"), "no checkpoint is named; give model.path=FOLDER or model.hub_id=OWNER/NAME"),
    (("splits.blocks=1",), "at least 2 blocks are needed"),
    (("paths.outputs=file",), "file"),
]


@pytest.mark.parametrize(
    ("args", "message"), COMPOSED, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_errors_are_one_sentence_and_leave_no_cache(
    probe: Run, checkpoint: Path, tmp_path: Path, args: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "file").write_text("")
    base = () if args[0].startswith("model") else tiny(checkpoint)
    quick = () if "dataset=coco" in args else QUICK
    code, _, err = probe("run", *base, *quick, *args)
    lines = [line for line in err.strip().splitlines() if line.startswith("mllm-probe: ")]
    assert code == 1
    assert len(lines) == 1 and err.strip().endswith(lines[0]), err
    assert re.search(message, lines[0]), lines[0]
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("manifest.json")) and not list(tmp_path.glob("outputs/cache/*/*"))
    assert not list(tmp_path.rglob("scores.csv"))


def test_llava_says_what_it_needs_before_it_fails(probe: Run) -> None:
    code, _, err = probe("run", "model=llava", "task=entailment")
    assert code == 1
    assert "llava needs the checkpoint llava-hf/llava-1.5-7b-hf (about 14.1 GB)" in err


def test_errors_that_need_the_processor(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    data = ("task=entailment", "dataset=coco", "splits.blocks=2", "sweep.draws=50", "sweep.seeds=[0]")
    bad = coco_folder(tmp_path / "tags", "An <image> tag.")
    code, _, err = probe("run", *tiny(checkpoint), *data, f"dataset.root={bad}")
    assert code == 1 and "contains the image tag <image>; remove it from the caption" in err
    short = save_llava(tmp_path / "short", max_positions=24)
    good = coco_folder(tmp_path / "good")
    code, _, err = probe("run", *tiny(short), *data, f"dataset.root={good}")
    assert code == 1 and "the model reads at most 24" in err
    bare = shutil.copytree(checkpoint, tmp_path / "bare")
    (bare / "processor_config.json").unlink()
    code, _, err = probe("run", *tiny(bare), *data, f"dataset.root={good}")
    assert code == 1 and "has no processor" in err
    code, _, err = probe("run", *tiny(checkpoint), *data, f"dataset.root={good}", "task=objects")
    assert code == 1 and "has no instance annotations" in err
    assert not list(tmp_path.rglob("manifest.json"))
    code, _, err = probe("run", *tiny(checkpoint), *data, f"dataset.root={good}")
    assert code == 0, err


def test_on_bad_row_skip_lists_the_rows(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "data")
    (root / "images" / "3.png").unlink()
    data = (
        *tiny(checkpoint),
        "task=entailment",
        "dataset=coco",
        f"dataset.root={root}",
        "splits.blocks=2",
        "sweep.draws=50",
    )
    code, _, err = probe("run", *data)
    assert code == 1 and "picture id 3" in err and "data.on_bad_row=skip" in err
    code, _, err = probe("run", *data, "data.on_bad_row=skip")
    assert code == 0 and "skipped: captions.json, picture id 3" in err
    summary = json.loads((runs(tmp_path)[-1] / "summary.json").read_text())
    assert summary["pictures"] == 11 and len(summary["skipped"]) == 1


def test_the_dispatcher(probe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe()[0] == 2
    code, out, _ = probe("--help")
    assert code == 0 and "usage: mllm-probe COMMAND" in out
    code, _, err = probe("rnu")
    assert code == 2 and "choose one of: run, extract, sweep, report" in err
    code, _, err = probe("-m", "run")
    assert code == 2 and "flags go after the command" in err
    code, out, _ = probe("run", "--help")
    assert code == 0 and "mllm-probe run [GROUP=OPTION ...]" in out and "model: blip2, chameleon, custom, " in out
    code, out, _ = probe("report", "--help")
    assert code == 0 and "mllm-probe report FOLDER" in out
    code, out, _ = probe("run", "--cfg", "job", "model=llava", "task=objects")
    assert code == 0 and "hub_id: llava-hf/llava-1.5-7b-hf" in out
    code, _, err = probe("report")
    assert code == 1 and "report needs a FOLDER, or run=FOLDER" in err
    code, _, err = probe("report", "no [where], 'here'")
    assert code == 1 and "no [where], 'here'/scores.csv does not exist" in err
    code, _, err = probe("report", "run=nowhere")
    assert code == 1 and "scores.csv does not exist" in err


def test_commands_of_two_words(probe: Run) -> None:
    code, out, _ = probe("vision")
    assert code == 2 and "usage: mllm-probe vision COMMAND" in out and "vision policy " in out and "sweep" not in out
    code, out, _ = probe("vision", "--help")
    assert code == 0 and "vision fit " in out
    code, _, err = probe("vision", "fitt")
    assert code == 2 and err.startswith("'vision fitt' is no command; choose one of: ") and "fit, policy" in err
    code, _, err = probe("vision", "-m", "fit")
    assert code == 2 and "'vision -m' is no command; flags go after the command" in err
    code, _, err = probe("visoin", "fit")
    assert code == 2 and "'visoin' is no command" in err and " vision," in err
    code, out, _ = probe("vision", "fit", "--help")
    assert code == 0 and "mllm-probe vision fit [key=value ...]" in out and "fit.a=a_loglik" in out
    code, _, err = probe("vision", "policy", "policy.x=1")
    assert code == 1 and "'policy.x' is no setting of `vision policy`" in err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mllm-probe ", {"run", "extract", "sweep", "report", "vision"}),
        ("mllm-probe vision", {"vision"}),
        ("mllm-probe vision ", {"score", "fit", "policy"}),
        ("mllm-probe vision po", {"policy"}),
        ("mllm-probe vision fit fit.d", {"fit.draws="}),
        ("mllm-probe cache v", {"verify"}),
        ("mllm-probe re", {"report"}),
        ("mllm-probe com", {"compare"}),
        ("mllm-probe run task=", {"task=entailment", "task=objects"}),
        ("mllm-probe run model=mini_", {"model=mini_base"}),
    ],
)
def test_completion(line: str, expected: set[str]) -> None:
    """As bash asks: the typed line in COMP_LINE, the query on the command line."""
    environment = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    command = [sys.executable, "-m", "mllm_probe", "-sc", "query=bash"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert expected <= set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "times"), [((), 1), (("-m",), 1), (("hydra.mode=RUN",), 2), (("--config-dir", "."), 2)]
)
def test_settings_are_composed_once(
    probe: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], times: int
) -> None:
    """But for where a file or a setting of the user's may say how jobs run."""
    composed: list[object] = []
    compose = Hydra.compose_config
    monkeypatch.setattr(Hydra, "compose_config", lambda *a, **k: composed.append(k["run_mode"]) or compose(*a, **k))
    assert probe("run", "guards=maybe", *words)[0] == 1
    assert len(composed) == times


def test_an_experiment_of_the_users_may_say_that_it_is_a_multirun(
    probe: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(config_dir(), tmp_path / "conf")
    own = {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"data.seed": "0,1"}}}}
    (tmp_path / "conf/experiment/mine.yaml").write_text(f"# @package _global_\n{json.dumps(own)}\n")
    monkeypatch.setattr("mllm_probe.files.paths.config_dir", lambda: tmp_path / "conf")
    code, _, err = probe("run", "experiment=mine", "guards=maybe", "hydra.sweep.dir=jobs")
    assert code == 1 and "data.seed=0: guards=maybe is unknown" in err and "no job was started" in err


def test_the_real_console_script(tmp_path: Path, checkpoint: Path) -> None:
    script = Path(sys.executable).with_name("mllm-probe")
    done = subprocess.run(
        [script, "run", *tiny(checkpoint), *QUICK], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "extract: " in done.stderr and "/s" in done.stderr and "lm.04.norm" in done.stdout


@pytest.mark.parametrize(
    ("said", "expected"), [({}, "1"), ({"SLURM_CPUS_PER_TASK": "3"}, "3"), ({"OMP_NUM_THREADS": "2"}, "2")]
)
def test_threads_are_those_of_the_user_or_of_the_allotment(
    said: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == expected
