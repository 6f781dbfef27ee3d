"""What `COMMAND --help` says and what the Tab key offers: from the same records as docs/commands.md, and quickly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mllm_probe.cli.entry import COMMANDS, PLAIN
from mllm_probe.config.sweep import METRICS
from mllm_probe.files import reference
from tests.support.runs import Run

JOBS = [command for command in COMMANDS if command not in PLAIN]
HEAVY = {"torch", "transformers", "hydra", "omegaconf", "numpy", "pandas", "matplotlib", "rich", "yaml"}


@pytest.mark.parametrize("command", JOBS)
def test_every_setting_is_there_with_its_default_its_range_and_what_it_means(probe: Run, command: str) -> None:
    code, out, err = probe(*command.split(), "--help")
    words = " ".join(out.split())
    assert (code, err) == (0, "") and reference.what(command) in words
    blocks = [(reference.about(command), reference.own(command))]
    blocks += [reference.section(command, name) for name in reference.sections(command)]
    for about, settings in blocks:
        assert all(paragraph in words for paragraph in about)
        for name, said in settings.items():
            row = f"{name}={said.get('default', '')} "
            assert row.strip() in words
            if allowed := said.get("allowed", "").replace("`", ""):
                behind = words[words.index(row) :][:400]
                assert allowed in behind, f"{name}: {allowed}"
    for group in reference.groups(command):
        assert f"{group}: {', '.join(reference.options(group))}" in words
    assert max(map(len, out.splitlines())) <= 80


def test_a_section_is_shown_in_full(probe: Run) -> None:
    code, out, _ = probe("run", "--help", "sweep")
    assert code == 0 and "sweep.metric=auto" in out and "balanced_accuracy" in out and "sweep.margin=0.01" in out
    assert "model." not in out and "Groups" not in out
    out = probe("run", "--help", "task")[1]
    words = " ".join(out.split())
    for option in ("task=objects", "task=entailment"):
        about, settings = reference.made("task")[option.partition("=")[2]]
        assert option in out and all(one in words for one in about) and all(f"{name}=" in out for name in settings)
    assert "Local meaning: is this object in this picture?" in words and "sweep." not in out
    out = probe("run", "--help", "model")[1]
    assert "model.quantization=nf4" in out and "none, int8, nf4" in out and "\n  llava_13b" in out
    assert "controls=[control_task]" in probe("run", "task=objects", "-h", "controls")[1]
    both = probe("extract", "--help", "data", "cache")[1]
    assert "data.n=null" in both and "cache.trust=sample" in both and "sweep." not in both
    assert "report.style=screen" in probe("report", "--help", "report")[1]
    assert "geometry.k=10" in probe("geometry", "--help", "geometry")[1]


def test_an_unknown_section_is_refused_with_those_there_are(probe: Run) -> None:
    code, out, err = probe("run", "--help", "swep")
    assert (code, out) == (1, "") and err.startswith("mllm-probe: 'swep' is no section of `run`; did you mean 'sweep'?")
    listed = set(err.strip().partition("choose one of: ")[2].split(", "))
    assert listed == set(reference.names("run")) and {"model", "task", "sweep", "report", "controls"} <= listed
    assert "'sweep' is no section of `vision fit`" in probe("vision", "fit", "--help", "sweep")[2]


def test_own_groups_are_listed(probe: Run, tmp_path: Path) -> None:
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "ours.yaml").write_text("# Our model.\nhub_id: we/ours\n")
    code, out, _ = probe("run", "--config-dir", str(tmp_path / "own"), "--help")
    assert code == 0 and "ours (without a choice: mini)" in " ".join(out.split())
    out = probe("run", "--help", "--config-dir", str(tmp_path / "own"), "model")[1]
    assert "Our model. (we/ours)" in out


def asked(line: str, tail: str = "") -> "subprocess.CompletedProcess[str]":
    """As bash asks: the typed line in COMP_LINE, the query on the command line."""
    code = f"import sys; from mllm_probe.cli import entry as cli\ntry: cli.main()\nexcept SystemExit: pass\n{tail}"
    environment = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    return subprocess.run(
        [sys.executable, "-c", code, "-sc", "query=bash"], env=environment, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mllm-probe run sweep.metric=", {f"sweep.metric={one}" for one in METRICS}),
        ("mllm-probe run report.st", {"report.style="}),
        ("mllm-probe run report.style=", {"report.style=screen", "report.style=paper"}),
        ("mllm-probe report report.style=p", {"report.style=paper"}),
        ("mllm-probe report report.metric=au", {"report.metric=auto", "report.metric=auroc"}),
        ("mllm-probe run report.towers=[lm,c", {"report.towers=[lm,connector"}),
        ("mllm-probe run guards=", {"guards=stop", "guards=note"}),
        ("mllm-probe run model.trust_remote_code=", {f"model.trust_remote_code={one}" for one in ("true", "false")}),
        ("mllm-probe run layers.parts=[attn,m", {"layers.parts=[attn,mlp"}),
        ("mllm-probe run -m cache.trust=stat,s", {"cache.trust=stat,stat", "cache.trust=stat,sample"}),
        ("mllm-probe run -m task=entailment,ob", {"task=entailment,objects"}),
        (
            "mllm-probe run task=objects task.absent=",
            {f"task.absent={o}" for o in ("random", "popular", "adversarial")},
        ),
        ("mllm-probe run task.neg", {"task.negatives="}),
        ("mllm-probe tune target=sugar target.image_readout=", {f"target.image_readout={o}" for o in ("mean", "last")}),
        ("mllm-probe vision score pairs.layout=", {"pairs.layout=spair", "pairs.layout=pf_pascal"}),
        ("mllm-probe run sw", {"sweep."}),
        ("mllm-probe run --help sw", {"sweep"}),
        ("mllm-probe run --v", {"--verbose"}),
    ],
)
def test_allowed_values_are_completed(line: str, expected: set[str]) -> None:
    assert set(asked(line).stdout.split()) == expected


def test_nothing_heavy_is_imported() -> None:
    """What makes help and the Tab key quick: neither Hydra nor a library of numbers, and none of our own modules that
    use one."""
    tail = f"heavy = {HEAVY} & set(sys.modules)\nassert not heavy, heavy"
    asked("mllm-probe run sweep.metric=", tail)
    for args in (["run", "--help"], ["run", "--help", "task"], ["vision", "score", "--help"], ["report", "-h"]):
        code = f"import sys; from mllm_probe.cli import entry as cli; cli.main({args})\n{tail}"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
