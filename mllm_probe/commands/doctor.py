"""`mllm-probe doctor`: what a run needs of this machine, what is there, and what fixes the rest. Loads no model.

A problem keeps every run from working; a note is worth knowing and keeps none.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mllm_probe.errors import first_line
from mllm_probe.report.terminal.printing import add_row, bare, wide_console

OK, NOTE, PROBLEM = "ok", "note", "problem"
HUB = ("huggingface.co", 443)
PATIENCE = 3.0  # seconds to wait for the hub
LARGEST = 0.2  # error of nf4 on numbers up to 1
ROOM = 5.0  # GB below which a cache may not fit
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True)
class Finding:
    """One row: what was looked at, what was found, how good that is, and the command or setting that fixes it."""

    what: str
    found: str
    mark: str = OK
    remedy: str = ""


def run(args: Sequence[str]) -> None:
    """The command; exits with 1 where something keeps every run from working."""
    parser = argparse.ArgumentParser("mllm-probe doctor", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--outputs", default="outputs", metavar="FOLDER", help="paths.outputs of the runs")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    given = parser.parse_args(args)
    findings = [finding for look in LOOKS for finding in look(Path(given.outputs))]
    if given.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        _show(findings)
    sys.stdout.flush()
    if any(finding.mark == PROBLEM for finding in findings):
        sys.exit(1)


def _show(findings: Sequence[Finding]) -> None:
    table = bare()
    for name in ("", "what", "found", "what fixes it"):
        table.add_column(name)
    for finding in findings:
        add_row(table, finding.mark, finding.what, finding.found, finding.remedy)
    wide_console().print(table)


def _python(_: Path) -> Iterator[Finding]:
    yield Finding("python", platform.python_version())
    for line in requires("mllm-probe") or ():
        if "extra ==" in line:
            continue
        yield _package(line)
    extra = "installed, so it resizes pictures" if find_spec("torchvision") else "not installed, and never needed"
    yield Finding("torchvision", extra)


def _package(line: str) -> Finding:
    """One requirement such as `torch>=2.6`."""
    from packaging.requirements import Requirement

    wanted = Requirement(line)
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return Finding(wanted.name, "missing", PROBLEM, f"pip install '{wanted}'")
    if not wanted.specifier.contains(found, prereleases=True):
        return Finding(wanted.name, found, PROBLEM, f"pip install '{wanted}'")
    return Finding(wanted.name, found)


def _device(_: Path) -> Iterator[Finding]:
    if not find_spec("torch"):
        return
    import torch

    build = f"torch was built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch was built for the CPU"
    if not torch.cuda.is_available():
        yield Finding("CUDA", f"none; {build}", NOTE, "device=cpu serves model=mini; large models need a card")
        return
    for card in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(card)
        name = f"{torch.cuda.get_device_name(card)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        plain = Finding(f"CUDA {card}", name)
        with torch.cuda.device(card):
            lacks = Finding(f"CUDA {card}", f"{name}, no bfloat16", NOTE, "model.dtype=float16")
            yield plain if torch.cuda.is_bf16_supported() else lacks


def _nf4(_: Path) -> Iterator[Finding]:
    """A real round trip on the device at hand."""
    if not (find_spec("torch") and find_spec("bitsandbytes")):
        return
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        from mllm_probe.models.loading.device import nf4_error

        error = nf4_error(device)
    except Exception as problem:  # bitsandbytes fails in as many ways as there are builds of it
        remedy = "pip install --upgrade bitsandbytes, or model.quantization=none"
        yield Finding("nf4", f"fails on {device}: {first_line(problem)}", PROBLEM, remedy)
        return
    mark = OK if error < LARGEST else PROBLEM
    yield Finding("nf4", f"works on {device}, a round trip differs by {error:.2f} at most", mark)


def _room(outputs: Path) -> Iterator[Finding]:
    place = next(parent for parent in (outputs, *outputs.resolve().parents) if parent.exists())
    free = shutil.disk_usage(place).free / 1e9
    what = f"{free:.1f} GB free under {outputs}"
    if not os.access(place, os.W_OK):
        yield Finding("disk", f"{place} cannot be written to", PROBLEM, "paths.outputs=FOLDER names another place")
    elif free < ROOM:
        yield Finding("disk", what, NOTE, "mllm-probe cache prune, or paths.outputs=FOLDER on another disk")
    else:
        yield Finding("disk", what)


def _machine(_: Path) -> Iterator[Finding]:
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    yield Finding("memory", f"{memory:.1f} GB free")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    said = os.environ.get("OMP_NUM_THREADS")
    threads, remedy = f"{said or 1} of {cores} cores", "" if said else "OMP_NUM_THREADS=N, if they are idle"
    yield Finding("threads", threads, OK if said else NOTE, remedy)
    sbatch = "sbatch is there" if shutil.which("sbatch") else "not installed; needed only for sweeps on a cluster"
    lacks = shutil.which("sbatch") and not find_spec("submitit")
    yield Finding("SLURM", sbatch, NOTE if lacks else OK, "pip install 'mllm-probe[slurm]'" if lacks else "")


def _hub(_: Path) -> Iterator[Finding]:
    """No token is ever printed."""
    flags = [name for name in OFFLINE if os.environ.get(name, "0").upper() in ("1", "TRUE", "YES", "ON")]
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")).expanduser()
    kept = sorted(folder.name.removeprefix("models--").replace("--", "/") for folder in home.glob("hub/models--*"))
    yield Finding("hub checkpoints", f"{', '.join(kept) or 'none'} in {home / 'hub'}")
    if flags:
        remedy = f"unset {' '.join(flags)} to fetch checkpoints"
        yield Finding("hub", f"not asked: {' and '.join(flags)} set", NOTE, remedy)
        return
    try:
        socket.create_connection(HUB, PATIENCE).close()
    except OSError as error:
        remedy = "model.path=FOLDER, a checkpoint that is here"
        yield Finding("hub", f"{HUB[0]} does not answer ({error})", NOTE, remedy)
        return
    known = os.environ.get("HF_TOKEN") or (home / "token").is_file()
    said = f"{HUB[0]} answers, {'logged in' if known else 'not logged in'}"
    yield Finding("hub", said, OK, "" if known else "hf auth login, for gated models")


LOOKS: tuple[Callable[[Path], Iterator[Any]], ...] = (_python, _device, _nf4, _room, _machine, _hub)
