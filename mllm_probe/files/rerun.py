"""The commands that run jobs of multiruns again."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from mllm_probe.files.job_states import Standing

Box = tuple[tuple[str, ...], ...]


def again(jobs: Sequence[Standing]) -> list[str]:
    """Few commands that together run just these jobs of multiruns again, the overrides quoted for a shell."""
    alike: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[tuple[str, ...]]] = {}
    for job in jobs:
        if job.asked is not None:
            words = ("mllm-probe", job.asked.command, "-m", *job.asked.options)
            names = tuple(override.partition("=")[0] for override in job.overrides)
            alike.setdefault((job.asked.folder, words, names), []).append(job.overrides)
    commands = []
    for (folder, words, names), overrides in alike.items():
        there = "" if Path(folder) == Path.cwd() else f"cd {shlex.quote(folder)} && "
        for box in _boxes([[one.partition("=")[2] for one in job] for job in overrides]):
            swept = [f"{name}={','.join(values)}" for name, values in zip(names, box, strict=True)]
            commands.append(there + shlex.join([*words, *swept]))
    return commands


def _boxes(jobs: Sequence[Sequence[str]]) -> list[Box]:
    """Jobs [N][K] -> few boxes of K sets of values each, whose combinations are these jobs: what one -m can say."""
    found: list[Box] = [tuple((value,) for value in job) for job in jobs]
    for i in range(len(found[0])):
        alike: dict[Box, list[str]] = {}
        for box in found:
            alike.setdefault((*box[:i], *box[i + 1 :]), []).extend(box[i])
        found = [(*rest[:i], tuple(values), *rest[i:]) for rest, values in alike.items()]
    return found
