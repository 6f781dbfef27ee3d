"""Finished runs in TensorBoard, W&B and MLflow, read back by their own readers; those not installed are skipped."""

import json
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mllm_probe.api import Result, run
from mllm_probe.errors import ConfigError
from mllm_probe.files.paths import OutputPaths, RunPaths
from mllm_probe.loggers import chosen
from mllm_probe.loggers.chosen import chosen_loggers, log_runs, logger_of
from mllm_probe.loggers.told import Record, recorded
from tests.support.runs import QUICK, Run, Silent, tiny

ACCEPTED = re.compile(r"[\w.\-/]+")  # what each of the three takes in a name
NAME = "entailment/last/logistic/accuracy"


def needs(name: str) -> pytest.MarkDecorator:
    lacking = [module for module in logger_of(name).needs if find_spec(module) is None]
    return pytest.mark.skipif(bool(lacking), reason=f"{', '.join(lacking)} not installed: pip install '.[{name}]'")


@pytest.fixture(scope="module")
def finished(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    place = tmp_path_factory.mktemp("logged")
    words = (*tiny(checkpoint), *QUICK, "controls=[control_task,blank_picture]", f"paths.outputs={place / 'outputs'}")
    return run(*words, out=place / "run", quiet=True)


@pytest.fixture
def record(finished: Result) -> Record:
    return recorded(RunPaths(finished.folder), OutputPaths(finished.folder.parent / "outputs"))


def curve(finished: Result, low: str = "value") -> dict[int, float]:
    """{layer: accuracy at last}, from scores.csv by hand."""
    table = finished.scores.query("seed == 'all' and split == 'test' and metric == 'accuracy' and subset == ''")
    table = table.query(
        "tower == 'lm' and part == 'block' and position == 'last' and control == '' and probe == 'logistic'"
    )
    return dict(zip(table.layer.astype(int), table[low], strict=True))


def log(name: str, record: Record) -> str:
    """What the user is told."""
    told = Silent()
    log_runs([name], [record.paths], str(record.outputs.root), told)
    assert "not logged" not in told.notes[0], told.notes
    return told.notes[0]


def test_names_say_what_was_scored_and_are_unique(finished: Result, record: Record) -> None:
    names = [(point.name, point.step) for point in record.points]
    assert len(set(names)) == len(names) and all(ACCEPTED.fullmatch(name) for name, _ in names)
    for end, column in (("", "value"), (".low", "low"), (".high", "high")):
        assert {p.step: p.value for p in record.points if p.name == NAME + end} == {
            step: value for step, value in curve(finished, column).items() if value == value
        }, "a block by design has no interval"
    there = {name for name, _ in names}
    assert {f"entailment/{one}/accuracy" for one in ("question_only", "majority", "zero_shot")} <= there
    for place in ("last.norm/logistic", "vision.mean_image/logistic", "last/logistic.blank_picture", "last/logit_lens"):
        assert f"entailment/{place}/accuracy" in there
    best = finished.summary["chosen"]["last"]
    assert record.chosen["entailment/chosen/last/accuracy"] == best["value"] and record.name == finished.summary["run"]
    assert record.chosen["entailment/chosen/last/layer"] == int(best["site"][3:])
    assert record.settings["sweep.draws"] == 50 and record.settings["controls"] == "[control_task,blank_picture]"
    assert [path.name for path in record.figures] == ["layers.png"]


class Broken:
    needs: tuple[str, ...] = ()

    def log(self, record: Record) -> str:
        raise RuntimeError("no such server\nand more")


def test_what_is_unknown_or_missing_is_refused_first(
    probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = probe("run", "loggers=[tensorbord]")
    assert code == 1 and err.startswith("mllm-probe: loggers names 'tensorbord', which is unknown; did you mean")
    assert "choose one of: mlflow, tensorboard, wandb" in err and not (tmp_path / "outputs" / "cache").exists()
    assert chosen_loggers(None) == chosen_loggers([]) == ()
    absent = Broken()
    absent.needs = ("surely_absent",)
    monkeypatch.setattr(chosen, "logger_of", lambda name: absent)
    (tmp_path / "surely_absent").mkdir()  # as W&B leaves its own folder where it was run
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"loggers=\[wandb\] needs surely_absent: pip install 'mllm-probe\[wandb\]'"):
        chosen_loggers(["wandb"])
    code, _, err = probe("sweep", "loggers=wandb")
    assert code == 1 and "needs surely_absent" in err and not (tmp_path / "outputs" / "cache").exists()


def test_a_logger_that_fails_hurts_no_run(
    probe: Run, finished: Result, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is logged is no part of the run: the same bytes with and without."""
    monkeypatch.setattr(chosen, "logger_of", lambda name: Broken() if name == "mlflow" else logger_of(name))
    words = (*tiny(checkpoint), *QUICK, "controls=[control_task,blank_picture]", "hydra.run.dir=here")
    outputs = f"paths.outputs={finished.folder.parent / 'outputs'}"
    code, _, err = probe("sweep", *words, outputs, "loggers=[mlflow]")
    assert code == 0 and err.splitlines()[-1] == "mlflow: not logged, RuntimeError: no such server"
    assert json.loads(Path("here/status.json").read_text())["state"] == "done"
    assert Path("here/scores.csv").read_bytes() == (finished.folder / "scores.csv").read_bytes()


@needs("tensorboard")
@pytest.mark.filterwarnings("default")  # of packages that are not ours
def test_tensorboard_reads_it_back(finished: Result, record: Record) -> None:
    assert log("tensorboard", record) == f"tensorboard: tensorboard --logdir {record.outputs.root}"
    log("tensorboard", record)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = EventAccumulator(str(finished.folder / "tensorboard" / record.name), {"scalars": 0, "images": 0}).Reload()
    found = {event.step: event.value for event in events.Scalars(NAME)}
    assert found == pytest.approx(curve(finished)) and len(events.Scalars(NAME)) == len(found), "the first is replaced"
    assert {point.name for point in record.points} | record.chosen.keys() == set(events.Tags()["scalars"])
    assert events.Images("layers")[0].encoded_image_string.startswith(b"\x89PNG")
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    told = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert told["task._target_"].string_value.endswith("Entailment") and told["sweep.draws"].number_value == 50


@needs("wandb")
def test_wandb_stays_offline(finished: Result, record: Record) -> None:
    """Every way out leads to a port where nobody may ring: that of W&B's server and that of any proxy."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.setblocking(False)
        there = f"http://127.0.0.1:{door.getsockname()[1]}"
        ways = dict.fromkeys(("WANDB_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), there)
        environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"} | ways
        code = (
            "import sys; from pathlib import Path; from types import SimpleNamespace\n"
            "from mllm_probe.loggers.chosen import log_runs; from mllm_probe.files.paths import RunPaths\n"
            "log_runs(['wandb'], [RunPaths(Path(sys.argv[1]))], 'outputs', SimpleNamespace(note=print))"
        )
        words = [sys.executable, "-c", code, str(finished.folder)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        with pytest.raises(BlockingIOError):
            door.accept()
    assert done.stdout == f"wandb: wandb sync {finished.folder}/wandb/offline-run-*\n", done.stderr
    [folder] = (finished.folder / "wandb").glob("offline-run-*")
    assert list(folder.glob("files/media/images/layers_*.png"))
    [file] = folder.glob("*.wandb")
    found = told_to_wandb(file)
    assert found["history"][NAME] == pytest.approx(curve(finished))
    assert found["name"] == record.name and found["config"]["sweep.draws"] == 50
    assert found["summary"]["entailment/chosen/last/accuracy"] == record.chosen["entailment/chosen/last/accuracy"]


def told_to_wandb(file: Path) -> Mapping[str, Any]:
    """What is in the file that `wandb sync` would send."""
    found: dict[str, Any] = {"history": {}, "config": {}, "summary": {}}
    for entry in entries(file.read_bytes()):
        if entry.HasField("run"):
            found["name"] = entry.run.display_name
            found["config"] |= {one.key: json.loads(one.value_json) for one in entry.run.config.update}
        for one in entry.history.item:
            name, step = one.key or "/".join(one.nested_key), entry.history.step.num
            found["history"].setdefault(name, {})[step] = json.loads(one.value_json)
        found["summary"] |= {one.key: json.loads(one.value_json) for one in entry.summary.update}
    return found


def entries(data: bytes) -> Iterator[Any]:
    """The records of W&B's file: LevelDB's log format behind seven bytes, protobuf inside."""
    from wandb.proto.wandb_internal_pb2 import Record as Entry

    block, head, at, whole = 2**15, 7, 7, b""
    while at + head <= len(data):
        if block - at % block < head:
            at += block - at % block
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + head])
        whole += data[at + head : at + head + size]
        at += head + size
        if kind in (1, 4):  # whole, or the last part of one
            yield Entry.FromString(whole)
            whole = b""


@needs("mlflow")
@pytest.mark.filterwarnings("default")
def test_mlflow_reads_it_back(finished: Result, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{record.outputs.root / 'mlflow.db'}"
    for _ in range(2):
        assert log("mlflow", record) == f"mlflow: mlflow ui --backend-store-uri {uri}"
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("mllm-probe")
    found, again = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == again.info.run_name == record.name and found.info.status == "FINISHED"
    history = client.get_metric_history(found.info.run_id, NAME)
    assert {one.step: one.value for one in history} == curve(finished)
    assert found.data.params["sweep.draws"] == "50" and len(found.data.params) == len(record.settings)
    assert found.data.metrics["entailment/chosen/last/accuracy"] == record.chosen["entailment/chosen/last/accuracy"]
    assert [one.path for one in client.list_artifacts(found.info.run_id)] == ["layers.png"]
    assert (record.outputs.root / "mlruns" / found.info.run_id / "artifacts" / "layers.png").is_file()
