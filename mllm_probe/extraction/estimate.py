"""Which sites and positions the words of a config are, and what their extraction will take before a weight is loaded:
bytes of pooled positions exactly, the rest roughly."""

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mllm_probe.cache.plan import Plan
from mllm_probe.config.model import ModelSettings
from mllm_probe.config.run import LayerSettings
from mllm_probe.errors import ConfigError, choices
from mllm_probe.extraction.plan import BYTES, rows_of
from mllm_probe.records.batches import Survey
from mllm_probe.records.sites import ANSWER, INSIDE, PICTURE_POSITIONS, TOWERS, Anatomy, Key, Site

GB = 1e9
QUANTIZED_BYTES = {"nf4": 0.53, "int8": 1.0}  # of a weight, its scales included
EFFICIENCY = 0.5  # of a plain matrix product, which a transformer reaches at best
LIVE_ROWS = 24  # values of hidden width that a token holds at once inside a block, its neighbours' mask included
PARTS = ("block", *INSIDE)


@dataclass(frozen=True)
class Estimate:
    """Bytes on disk and in the device's memory, seconds of computation."""

    disk: float
    memory: float
    seconds: float

    def __str__(self) -> str:
        size = f"about {self.disk / GB:.2g} GB on disk, {self.memory / GB:.2g} GB of memory"
        return f"{size} and {duration(self.seconds)}"


def estimate(
    plans: Sequence[Plan],
    survey: Survey,
    anatomy: Anatomy,
    parameters: Mapping[str, int],
    bytes_of: Mapping[str, float],
    rate: float,
) -> Estimate:
    """`parameters` and `bytes_of` a weight are given for each tower and the rest; `rate` is in operations a second."""
    stored = sum(_disk(plan, survey, anatomy) for plan in plans) * bytes_of["stored"]
    tokens = sum(_tokens(plan, survey) for plan in plans)
    pictures = sum(len(np.unique(plan.prefix[: plan.read])) for plan in plans)
    seen = pictures * max(survey.picture_tokens, 1)
    work = 2 * (parameters["lm"] * tokens + sum(parameters[tower] for tower in anatomy.towers if tower != "lm") * seen)
    weights = sum(count * bytes_of[tower] for tower, count in parameters.items())
    first = (int(survey.tokens[_read(plan, survey)[: plan.ends[0]]].sum()) for plan in plans if plan.read)
    live = max(first, default=0) * anatomy.widths["lm"] * LIVE_ROWS * bytes_of["rest"]
    return Estimate(stored, weights + live, work / (EFFICIENCY * rate))


def bytes_of(model: ModelSettings, towers: Iterable[str], kept: bool = False) -> dict[str, float]:
    """Of a weight in each tower; quantised ones are `kept` unpacked, too."""
    plain = float(BYTES[model.dtype])
    quantized = QUANTIZED_BYTES.get(model.quantization, plain)
    if kept and model.quantization in QUANTIZED_BYTES:
        quantized += plain
    return {tower: quantized if tower in model.quantize else plain for tower in towers}


def _disk(plan: Plan, survey: Survey, anatomy: Anatomy) -> float:
    """Values that the plan stores."""
    stored = {"sample": _read(plan, survey), "prefix": survey.rows_at(plan.samples[plan.owners])}
    rows: dict[tuple[str, str], int] = {}
    for key, space in plan.spaces.items():
        if (space, key.position) not in rows:
            each = rows_of(survey, key.position, stored[space])
            rows[space, key.position] = int(np.broadcast_to(each, len(stored[space])).sum())
    return sum(_width(key, anatomy) * rows[space, key.position] for key, space in plan.spaces.items())


def _read(plan: Plan, survey: Survey) -> np.ndarray:
    """Of the samples that pass through the model their rows in the survey."""
    return survey.rows_at(plan.samples[: plan.read])


def _width(key: Key, anatomy: Anatomy) -> int:
    """Values in a row: of the model's answers a number for each word."""
    kind, _, words = key.position.partition(":")
    return len(words.split("/")) if kind == ANSWER else anatomy.widths[key.site.tower]


def _tokens(plan: Plan, survey: Survey) -> int:
    """Tokens that pass through the language model; a shared picture counts once in a pass."""
    pictures = plan.read
    if plan.shared and pictures:
        new = np.diff(plan.prefix[: plan.read].astype(np.int64), prepend=-1) != 0
        new[plan.ends[:-1]] = True
        pictures = int(new.sum())
    return int((survey.tokens[_read(plan, survey)] - survey.picture_tokens).sum()) + pictures * survey.picture_tokens


def matrix_rate(device: str, dtype: str) -> float:
    """Operations a second of a square matrix product, timed on the spot."""
    import torch

    size, kind = (4096, getattr(torch, dtype)) if device == "cuda" else (512, torch.float32)
    a = torch.randn(size, size, device=device).to(kind)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def check_disk(found: Estimate, folder: Path, most: float) -> None:
    """Raises ConfigError where the cache would grow by more than `most` GB, or beyond the free space."""
    if found.disk > most * GB:
        raise ConfigError(
            f"this extraction needs about {found.disk / GB:.3g} GB on disk, more than extract.max_disk_gb={most:g}; "
            "raise it, or read fewer layers (layers=every4), positions or samples (data.n=...)"
        )
    place = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if found.disk > free:
        raise ConfigError(
            f"this extraction needs about {found.disk / GB:.3g} GB on disk, and {place} has {free / GB:.3g} GB left; "
            "paths.outputs=FOLDER names another place"
        )


def duration(seconds: float) -> str:
    """As people say it."""
    if seconds < 60:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def check_layers(settings: LayerSettings) -> None:
    """What no model can be read by. Raises ConfigError."""
    for tower in settings.towers or ():
        if tower not in TOWERS:
            raise ConfigError(f"layers.towers names the unknown tower '{tower}'; {choices(tower, TOWERS)}")
    for part in settings.parts:
        if part not in PARTS:
            raise ConfigError(f"layers.parts names '{part}', which is unknown; {choices(part, PARTS)}")
    if not settings.parts:
        raise ConfigError(f"layers.parts is empty, so nothing would be read; name one of: {', '.join(PARTS)}")
    if settings.stride < 1:
        raise ConfigError(f"layers.stride={settings.stride} must be 1 or more")


def select_sites(settings: LayerSettings, anatomy: Anatomy) -> tuple[Site, ...]:
    """The sites asked for, in the order the data passes them. Raises ConfigError."""
    towers = anatomy.towers if settings.towers is None else settings.towers
    check_layers(settings)
    for tower in towers:
        if tower not in anatomy.towers:
            raise ConfigError(
                f"layers.towers names {tower}, which this model lacks; it has {', '.join(anatomy.towers)}"
            )
    _check_parts(settings, towers, anatomy)
    wanted = {tower: set(_layers(settings, tower, anatomy)) for tower in towers}
    parts = {*settings.parts, *(("norm",) if settings.norm else ())}
    return tuple(site for site in anatomy.sites() if site.layer in wanted.get(site.tower, ()) and site.part in parts)


def _check_parts(settings: LayerSettings, towers: Sequence[str], anatomy: Anatomy) -> None:
    for part in settings.parts:
        if part in INSIDE and not any(part in anatomy.inside.get(tower, ()) for tower in towers):
            raise ConfigError(f"layers.parts names {part}, and no block of {', '.join(towers)} has a separate one")


def _layers(settings: LayerSettings, tower: str, anatomy: Anatomy) -> range:
    if tower not in anatomy.blocks:
        return range(1)
    blocks = anatomy.blocks[tower]
    first, last = 0, blocks
    if settings.middle:
        first, last = round(blocks / 3), round(2 * blocks / 3)
    if settings.range is not None:
        if len(settings.range) != 2 or not 0 <= settings.range[0] <= settings.range[1] <= blocks:
            raise ConfigError(
                f"layers.range={settings.range} is out of range: the {tower} tower has the layers 0 to {blocks} "
                "(0 = embeddings), give [first,last]; layers.towers=[lm] leaves the other towers out"
            )
        first, last = settings.range
    return range(first, last + 1, settings.stride)


def select_keys(sites: Sequence[Site], positions: Sequence[str], anatomy: Anatomy) -> tuple[Key, ...]:
    """Every site with every position that exists there."""
    wanted = dict.fromkeys(positions)
    return tuple(Key(site, position) for site in sites for position in wanted if anatomy.has(site, position))


def check_keys(keys: Sequence[Key], sites: Sequence[Site], positions: Sequence[str]) -> tuple[str, ...]:
    """Towers that none of the positions reads, to be told to the user. Raises ConfigError where nothing is left."""
    for name, given in (("layers.towers", sites), ("extract.positions", positions)):
        if not given:
            raise ConfigError(f"{name} is empty, so nothing would be read; name at least one")
    if not keys:
        raise ConfigError(
            f"extract.positions={list(positions)} exist in none of the requested towers; picture towers have "
            f"{' and '.join(PICTURE_POSITIONS)}"
        )
    return tuple(sorted({site.tower for site in sites} - {key.site.tower for key in keys}))
