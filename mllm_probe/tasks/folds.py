"""Which picture may train, validate or test. Knows picture digests only, no labels.

The test pictures are fixed by the data seed. The others are cut into blocks, and a probe seed picks which blocks
validate. Tasks balance their labels inside every fold (test, or one block), so they are balanced in every split
that any seed can draw, and no text says more in validation than it did in training.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from mllm_probe.errors import ConfigError, DataError
from mllm_probe.types import Decision, Examples, Picture

TEST = 0
MIN_PICTURES = 2  # a fold needs two pictures to exchange captions


@dataclass(frozen=True)
class Folds:
    """Shares of the pictures: `test` for the test set, then `val` of the `blocks` for validation."""

    test: float = 0.25
    val: float = 0.2
    blocks: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.test < 1 and 0 < self.val < 1 and self.blocks >= 2):
            raise ConfigError(
                f"splits.test={self.test}, splits.val={self.val}, splits.blocks={self.blocks}: "
                "the shares lie between 0 and 1 and at least 2 blocks are needed"
            )

    def assign(self, pictures: Sequence[Picture]) -> dict[str, int]:
        """{group: fold}; the pictures of a group share a fold. Raises DataError."""
        groups = sorted({picture.group for picture in pictures})
        Random(f"folds/{self.seed}").shuffle(groups)
        n_test = round(self.test * len(groups))
        blocks = min(self.blocks, (len(groups) - n_test) // MIN_PICTURES)
        if n_test < MIN_PICTURES or blocks < 2:
            raise DataError(f"{len(groups)} different pictures are too few for a test set and two blocks; take more")
        test = dict.fromkeys(groups[:n_test], TEST)
        return test | {group: 1 + i % blocks for i, group in enumerate(groups[n_test:])}

    def check(self, examples: Examples, seeds: Sequence[int]) -> None:
        """Refuse splits that a probe cannot learn from or be judged on, before anything costly begins.

        Every split needs two labels, and every class of classes; no picture may hold more than half of a split's rows.
        Raises DataError.
        """
        classes = {decision.label for decision in examples.decisions} if examples.kind == "classes" else set()
        for seed in seeds:
            split = self.splits(examples.folds, seed)
            rows: dict[str, list[Decision]] = {"train": [], "val": [], "test": []}
            for decision in examples.decisions:
                rows[split[decision.group]].append(decision)
            for name, held in rows.items():
                where = f"seed {seed}: the {name} split"
                labels = {decision.label for decision in held}
                if len(labels) < 2 or classes - labels:
                    raise DataError(
                        f"{where} has the labels {sorted(labels) or 'none'}, {len(classes) or 2} are needed; "
                        "take more pictures (data.n) or fewer splits.blocks"
                    )
                group, size = Counter(decision.group for decision in held).most_common(1)[0]
                if size > len(held) / 2:
                    raise DataError(
                        f"{where} has {size} of its {len(held)} rows about one picture ({group}); "
                        "take more pictures (data.n) or ask less about each"
                    )

    def splits(self, folds: Mapping[str, int], seed: int) -> dict[str, str]:
        """{picture digest: train | val | test} for one probe seed."""
        blocks = sorted(set(folds.values()) - {TEST})
        n_val = min(max(1, math.floor(self.val * len(blocks) + 0.5)), len(blocks) - 1)
        val = set(Random(f"splits/{self.seed}/{seed}").sample(blocks, n_val))
        names = {TEST: "test"} | {block: "val" if block in val else "train" for block in blocks}
        return {group: names[fold] for group, fold in folds.items()}
