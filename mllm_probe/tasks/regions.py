"""Where in the picture is an object? Single picture tokens, half of them on objects. Knows no model and no probe.

A sample for each picture whose objects are annotated, with a neutral text; what is asked of its tokens is told by the
masks of the objects, on the token grid of a model. Test pictures are read whole as far as the disk allows: only there
can a predicted grid be held against the true one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar

import numpy as np

from mllm_probe.errors import ConfigError, DataError
from mllm_probe.records.grids import Grid
from mllm_probe.records.samples import Collection, Decision, Examples, Picked, Picture, Sample, digest
from mllm_probe.records.sites import PICKED
from mllm_probe.tasks.candidates import check_categories
from mllm_probe.tasks.splits import TEST, Folds

Covered = Callable[[Picture], np.ndarray]  # [T] bool: picture tokens that some object covers by half or more


@dataclass(frozen=True)
class Regions:
    """`tokens` of a picture are read, half of them on objects, half beside, as far as there are so many; all tokens of
    at most `whole` test pictures (None: of all that extract.max_disk_gb leaves room for). `categories` None takes all.
    """

    template: str = "Describe this image."
    tokens: int = 32
    whole: int | None = None
    categories: Sequence[str] | None = None
    seed: int = 0
    name: ClassVar[str] = "regions"
    kind: ClassVar[str] = "labels"

    def __post_init__(self) -> None:
        if not self.template.strip():
            raise ConfigError("task.template must not be empty; it is the text beside the picture")
        if self.tokens < 2:
            raise ConfigError(f"task.tokens={self.tokens} must be 2 or more, half of them on objects")
        if self.whole is not None and self.whole < 0:
            raise ConfigError(f"task.whole={self.whole} must be 0 or more, or null for as many as there is room for")
        if self.categories is not None and not self.categories:
            raise ConfigError("task.categories=[] names no category; name one or more, or set null for all")

    def examples(self, collection: Collection, folds: Folds) -> Examples:
        """A sample for each picture with annotated objects; its decision holds no label. Raises DataError."""
        check_categories(collection, self.name, self.categories)
        if collection.masks is None:
            raise DataError(
                f"dataset {collection.name} has no masks of its objects; task=regions needs a data set with some, as "
                "dataset=scenes and dataset=coco (instances.json with segmentation) are"
            )
        shown = [picture for picture in collection.pictures if picture.categories is not None]
        samples = {picture.group: [] for picture in shown}  # type: ignore[var-annotated]
        for picture in shown:
            samples[picture.group].append(Sample.of([picture], self.template, {}))
        decisions = [
            Decision(digest(sample.uid, self.name), sample.uid, self.name, 0, group)
            for group, own in samples.items()
            for sample in own
        ]
        every = {sample.uid: sample for own in samples.values() for sample in own}
        return Examples(tuple(every.values()), tuple(decisions), folds.assign(collection.pictures), self.kind)

    def picked(
        self,
        examples: Examples,
        pictures: Mapping[str, Picture],
        grid_of: Callable[[Picture], Grid],
        covered: Covered,
        room: int,
    ) -> tuple[Examples, str]:
        """The samples with the tokens that are read of each, and the position that reads them. `pictures` {digest: it};
        whole ones are taken while all together are at most `room` tokens."""
        group_of = {decision.sample: decision.group for decision in examples.decisions}
        own = {sample.uid: pictures[sample.digests[0]] for sample in examples.samples}
        picks = {uid: self._some(picture, grid_of(picture), covered) for uid, picture in own.items()}
        tested = [uid for uid in own if examples.folds[group_of[uid]] == TEST]
        Random(f"whole/{self.seed}").shuffle(tested)
        left = room - sum(map(len, picks.values()))
        for uid in tested[: self.whole]:
            every = grid_of(own[uid]).placed
            left -= len(every) - len(picks[uid])
            if left < 0:
                break
            picks[uid] = every
        samples = tuple(
            replace(sample, picked=_picked(picks[sample.uid], grid_of(own[sample.uid]))) for sample in examples.samples
        )
        return replace(examples, samples=samples), _position(samples)

    def _some(self, picture: Picture, grid: Grid, covered: Covered) -> np.ndarray:
        """Half on objects and half beside, in the prompt's order; more of one where the other has fewer."""
        rng = Random(f"regions/{self.seed}/{picture.digest}")
        on = covered(picture)[grid.placed]
        inside, beside = grid.placed[on].tolist(), grid.placed[~on].tolist()
        half = self.tokens // 2
        n_inside = min(len(inside), max(half, self.tokens - len(beside)))
        n_beside = min(len(beside), self.tokens - n_inside)
        return np.asarray(sorted(rng.sample(inside, n_inside) + rng.sample(beside, n_beside)), dtype=int)


def _picked(tokens: np.ndarray, grid: Grid) -> Picked:
    return Picked(tuple(tokens.tolist()), tuple(tuple(grid.read[token].tolist()) for token in tokens))


def _position(samples: Sequence[Sample]) -> str:
    """Of the tokens that the samples pick: how many of a picture on average, and which, as a digest."""
    tokens = sum(len(sample.picked.tokens) for sample in samples)
    told = digest(sorted((sample.digests, sample.picked.tokens, sample.picked.patches) for sample in samples))
    return f"{PICKED}{-(-tokens // len(samples))}.{told[:8]}"
