"""Folders as commands other than `run` leave them, small and made by hand, with a name from somebody who means ill."""

import json
from dataclasses import fields
from pathlib import Path

from mllm_probe.config.report import ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.score import Score
from mllm_probe.report.align import show_alignment
from mllm_probe.report.fidelity import show_fidelity
from mllm_probe.report.geometry import show_geometry
from mllm_probe.report.tune import show_training
from mllm_probe.results.align import QUESTIONS
from mllm_probe.results.fidelity import Agreement, save_agreements
from mllm_probe.results.geometry import Relation, save_relations
from mllm_probe.results.score_file import ScoreFile
from mllm_probe.results.training import save_losses
from tests.support.pages import EVIL
from tests.support.runs import Silent

NAME = f"{EVIL} [bold]模 é"
SITES = ("lm.00", "lm.01", "lm.02")


def record(kind: type, **values: object) -> object:
    """A row whose other texts are empty and whose other numbers are 5."""
    made = {field.name: "" if field.type is str else 5 for field in fields(kind)}
    return kind(**made | {"model": NAME} | values)


def geometry(root: Path) -> Path:
    pairs = [(a, b) for a in SITES for b in SITES] + [(site, "") for site in SITES]
    shown = {"position": "last", "value": 0.5, "null_high": 0.1, "n": 9}
    rows = [record(Relation, site_a=a, site_b=b, measure="cka" if b else "entropy", **shown) for a, b in pairs]
    save_relations(RunPaths(root).geometry, rows)
    show_geometry(RunPaths(root), Silent(), ReportSettings())
    return root


def fidelity(root: Path) -> Path:
    same = {"tower": "lm", "part": "block", "position": "last", "task": NAME, "quantization": "nf4", "split": "test"}
    kinds = (
        ("relative_error", "", "", 0.1),
        ("accuracy", "reference", "reference", 0.75),
        ("accuracy", "model", "model", 0.5),
        ("difference", "model", "model", -0.25),
    )
    rows = [
        record(Agreement, **same, site=site, layer=i, depth=i / 2, measure=measure, fitted_on=a, read_on=b, value=value)
        for i, site in enumerate(SITES)
        for measure, a, b, value in kinds
    ]
    save_agreements(RunPaths(root).fidelity, rows)
    show_fidelity(RunPaths(root), Silent(), ReportSettings())
    return root


def align(root: Path) -> Path:
    rows = []
    for question in QUESTIONS:
        asked = {"task": question.task, "target": question.target, "metric": question.metric, "seed": "all"}
        how = "gak" if question.task == "sequence_retrieval" else "cosine"
        rows.append(record(Score, **asked, probe="chance", split="test", value=0.1))
        for features in ("centred", "mapped"):
            for split in ("val", "test"):
                same = {"features": features, "probe": how, "position": "last", "split": split, "tower": "lm"}
                rows += [
                    record(Score, **asked, **same, site=site, part="block", layer=i, depth=i / 2, value=0.2 * i)
                    for i, site in enumerate(SITES)
                ]
    ScoreFile(RunPaths(root).alignment).add(rows)
    show_alignment(RunPaths(root), Silent(), ReportSettings())
    return root


def tune(root: Path) -> Path:
    paths = RunPaths(root)
    save_losses(paths.losses, [{"step": i, "lr": 0.1, "loss": 2.0 - i} for i in range(3)])
    told = {
        "held_out": 1.0,
        "low": 0.5,
        "high": 1.5,
        "rows": 4,
        "unit": "captions",
        "probed": "model=custom model.path",
    }
    paths.summary.write_text(json.dumps({**told, "target": "connector"}))
    paths.checkpoint.mkdir()
    origin = {"base": "d", "model": NAME, "class": "C", "training": {"connector": "dci"}}
    (paths.checkpoint / "origin.json").write_text(json.dumps(origin))
    show_training(paths, Silent())
    return root


KINDS = {"geometry": geometry, "fidelity": fidelity, "align": align, "tune": tune}


def made(kind: str, root: Path) -> Path:
    """The folder of a command, with its page."""
    root.mkdir(parents=True)
    return KINDS[kind](root)
