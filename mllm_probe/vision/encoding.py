"""The features that `vision score` measures: each encoder sees each picture once, and nothing is kept on disk."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mllm_probe.config.vision import ScoreSettings
from mllm_probe.data.pictures import open_rgb
from mllm_probe.data.spair import Pair
from mllm_probe.records.protocols import Reporter
from mllm_probe.vision.c_score import Matched, find_keypoints, matcher
from mllm_probe.vision.frames import drawer
from mllm_probe.vision.representation import Representation

if TYPE_CHECKING:
    from mllm_probe.models.encoders.encoder_plan import EncoderPlan


class Features:
    """The encoders with their weights. Raises ModelError."""

    def __init__(
        self,
        plans: Mapping[str, "EncoderPlan"],
        chosen: Sequence[Representation],
        settings: ScoreSettings,
        device: str,
        reporter: Reporter,
    ) -> None:
        from mllm_probe.models.encoders.by_kind import load_encoder

        gc.collect()  # those of the representations before
        used = dict.fromkeys(encoder for one in chosen for encoder in one.encoders)
        self._encoders = [load_encoder(plans[name], settings.normalisation, device) for name in used]
        for remark in dict.fromkeys(said for encoder in self._encoders for said in encoder.remarks):
            reporter.note(remark)
        self._chosen, self._settings = chosen, settings

    def of(self, paths: Sequence[Path], upright: bool = True) -> Iterator[tuple[Path, dict[str, np.ndarray]]]:
        """For each picture, `upright` or as stored, {representation: patch features [P * P, D] float32}, row by row."""
        draw = drawer(self._settings.geometry)
        for start in range(0, len(paths), self._settings.micro_batch):
            batch = paths[start : start + self._settings.micro_batch]
            pictures = [open_rgb(path, upright) for path in batch]
            seen = {
                encoder.plan.name: encoder.features([draw(picture, encoder.plan.size) for picture in pictures]).numpy()
                for encoder in self._encoders
            }
            for i, path in enumerate(batch):
                parts = {name: values[i] for name, values in seen.items()}
                yield path, {one.name: one.features(parts) for one in self._chosen}


def matched(features: Features, pairs: Sequence[Pair], match: str, reporter: Reporter) -> dict[str, list[Matched]]:
    """{representation: its matches of all pairs}, which come by category: features of one are in memory at a time."""
    found: dict[str, list[Matched]] = {}
    done = 0
    for _, group in groupby(pairs, key=lambda pair: pair.category):
        members = list(group)
        paths = list(dict.fromkeys(side.path for p in members for side in (p.source, p.target)))
        seen = dict(features.of(paths, upright=False))  # as keypoints count pixels
        for pair in members:
            source, target = seen[pair.source.path], seen[pair.target.path]
            for name in source:
                one = find_keypoints(source[name], target[name], pair, matcher(match))
                found.setdefault(name, []).append(one)
        done += len(members)
        reporter.progress("correspondence", done, len(pairs), "pairs")
    return found


def pooled(features: Features, paths: Sequence[Path], reporter: Reporter) -> dict[str, np.ndarray]:
    """{representation: the mean over patches of every picture [n, D] float64}."""
    found: dict[str, list[np.ndarray]] = {}
    for done, (_, seen) in enumerate(features.of(paths), start=1):
        for name, values in seen.items():
            found.setdefault(name, []).append(values.mean(axis=0, dtype=np.float64))
        reporter.progress("pictures", done, len(paths), "pictures")
    return {name: np.stack(rows) for name, rows in found.items()}
