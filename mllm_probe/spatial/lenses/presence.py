"""Is a category in the picture, by the confidence of the logit lens: the largest probability of its name at any token
(the internal confidence of Jiang et al. 2024, arXiv 2410.02762). Knows probabilities, no model.

Letters: T tokens, P pictures, C categories, V words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe.results.lenses.lens import ALL, PRESENCE, Lens
from mllm_probe.results.regions import AUROC
from mllm_probe.spatial.field import Field
from mllm_probe.spatial.macro import Counted, of_order
from mllm_probe.stats.intervals import LEAST

if TYPE_CHECKING:
    import torch

Ids = tuple[int, ...]  # of a name's tokens


def tokenised(categories: Sequence[str], tokenizer: Any) -> list[tuple[Ids, ...]]:
    """For each category the ways its name is written, alone and behind a blank, as ids."""
    ways = []
    for name in categories:
        found = (tokenizer.encode(text, add_special_tokens=False) for text in (name, f" {name}"))
        ways.append(tuple(dict.fromkeys(tuple(ids) for ids in found if ids and tokenizer.unk_token_id not in ids)))
    return ways


@dataclass(frozen=True)
class Presence:
    """`ways` of writing each category [C], see `tokenised`. Of pictures all of whose tokens are read, where there are
    enough of them, else of all: more tokens have a larger largest one."""

    field: Field
    ways: Sequence[tuple[Ids, ...]]
    level: float = 0.95

    def probabilities(self, words: "torch.Tensor") -> np.ndarray:
        """Of words [n, V] -> of categories [n, C] float32: the mean over the tokens of a name, as it is written
        best; 0 for a name that cannot be written."""
        ids, owner, means = self._written
        each = words[:, ids].cpu().numpy() @ means
        found = np.zeros((len(words), len(self.ways)), np.float32)
        for way, c in enumerate(owner):
            np.maximum(found[:, c], each[:, way], out=found[:, c])
        return found

    def largest(self, probabilities: np.ndarray) -> np.ndarray:
        """Of tokens [T, C] -> of pictures [P, C]."""
        found = np.zeros((int(self.field.pictures.max()) + 1, probabilities.shape[1]), np.float32)
        np.maximum.at(found, self.field.pictures, probabilities)
        return found

    def row(self, confidence: np.ndarray, blank: Lens) -> Lens | None:
        """Of pictures [P, C] -> AUROC, a mean over categories; None where no category is there and not there."""
        tested = self._tested
        macro = of_order([AUROC], confidence[self._counted], tested.y)[AUROC]
        if not macro.categories:
            return None
        limits = tested.interval(macro, self.level)
        n, groups = len(tested.groups), len(np.unique(tested.groups))
        row = replace(blank, metric=PRESENCE, tokens=ALL, n=n, n_groups=groups, n_categories=macro.categories)
        if np.isnan(limits.low):
            return replace(row, value=macro.value)
        return replace(row, value=macro.value, low=limits.low, high=limits.high, ci_level=self.level)

    @cached_property
    def _written(self) -> tuple[list[int], list[int], np.ndarray]:
        """The ids [U] of all names, the category of each way [W], and the mean that a way is of them [U, W] float32."""
        every = [(c, way) for c, ways in enumerate(self.ways) for way in ways]
        ids = sorted({token for _, way in every for token in way})
        means = np.zeros((len(ids), len(every)), np.float32)
        for column, (_, way) in enumerate(every):
            for token in way:
                means[ids.index(token), column] += 1 / len(way)
        return ids, [c for c, _ in every], means

    @cached_property
    def _counted(self) -> np.ndarray:
        """The pictures that count, by number."""
        whole = self.field.whole
        enough = len(np.unique(self.field.groups[whole])) >= LEAST
        return np.unique(self.field.pictures[whole] if enough else self.field.pictures)

    @cached_property
    def _tested(self) -> Counted:
        first = np.unique(self.field.pictures, return_index=True)[1]
        first = first[np.isin(self.field.pictures[first], self._counted)]
        y = self.field.present[first]
        return Counted(self.field.groups[first], y, np.ones_like(y))
