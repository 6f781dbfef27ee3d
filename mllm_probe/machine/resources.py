"""Room on disk, memory, cores, and SLURM."""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from mllm_probe.machine.findings import NOTE, OK, PROBLEM, Finding

ROOM = 5.0  # GB below which a cache may not fit


def disk(outputs: Path) -> Finding:
    place = next(parent for parent in (outputs, *outputs.resolve().parents) if parent.exists())
    free = shutil.disk_usage(place).free / 1e9
    what = f"{free:.1f} GB free under {outputs}"
    if not os.access(place, os.W_OK):
        return Finding("disk", f"{place} cannot be written to", PROBLEM, "paths.outputs=FOLDER names another place")
    if free < ROOM:
        return Finding("disk", what, NOTE, "mllm-probe cache prune, or paths.outputs=FOLDER on another disk")
    return Finding("disk", what)


def memory_and_cores() -> Iterator[Finding]:
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    yield Finding("memory", f"{memory:.1f} GB free")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    said = os.environ.get("OMP_NUM_THREADS")
    threads, remedy = f"{said or 1} of {cores} cores", "" if said else "OMP_NUM_THREADS=N, if they are idle"
    yield Finding("threads", threads, OK if said else NOTE, remedy)


def slurm() -> Finding:
    sbatch = "sbatch is there" if shutil.which("sbatch") else "not installed; needed only for sweeps on a cluster"
    lacks = shutil.which("sbatch") and not find_spec("submitit")
    return Finding("SLURM", sbatch, NOTE if lacks else OK, "pip install 'mllm-probe[slurm]'" if lacks else "")
