"""Attention sinks: tokens that attract much attention in many prompts, whatever these say (Xiao et al. 2024, arXiv
2309.17453), named by where they stand. Knows rows of attention and layouts of prompts, no model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mllm_probe.models.attended import Attended
from mllm_probe.models.prompts.prompt import Layout
from mllm_probe.records.spans import STATEMENT, behind_from, tokens_of


@dataclass(frozen=True)
class Found:
    """A sink: its name, its token id where it is the same in all prompts (None: it is not), the share of prompts that
    it attracts more than `Sinks.mass` in, and its mean share of attention."""

    name: str
    token: int | None
    prompts: float
    mass: float


@dataclass(frozen=True)
class Sinks:
    """Of N prompts: a place is one if it attracts more than `mass` in more than the share `prompts` of them."""

    attended: Sequence[Attended]
    mass: float
    prompts: float

    def of(self, block: int, span: int) -> list[Found]:
        """At the places of a block and a span, the strongest first."""
        each = self._by_name(block, span)
        often, mean = (each > self.mass).mean(0), each.mean(0)
        found = np.flatnonzero(often > self.prompts)
        names = list(self._places)
        ordered = sorted(found.tolist(), key=lambda i: -mean[i])
        return [Found(names[i], self._places[names[i]], float(often[i]), float(mean[i])) for i in ordered]

    def share(self, block: int, span: int) -> np.ndarray:
        """[N]: how much of the attention of each prompt lies on them."""
        names = {one.name for one in self.of(block, span)}
        columns = [i for i, name in enumerate(self._places) if name in names]
        total: np.ndarray = self._by_name(block, span)[:, columns].sum(1)
        return total

    def _by_name(self, block: int, span: int) -> np.ndarray:
        """[N, names], 0 where a prompt has no such place."""
        found = np.zeros((len(self.attended), len(self._places)), np.float32)
        for row, one, columns in zip(found, self.attended, self._columns, strict=True):
            row[columns] = one.mean[block, span]
        return found

    @cached_property
    def _names(self) -> list[list[str]]:
        return [list(names_of(one.layout)) for one in self.attended]

    @cached_property
    def _places(self) -> dict[str, int | None]:
        """{name: the token there, None where prompts differ in it}."""
        found: dict[str, int | None] = {}
        for one, names in zip(self.attended, self._names, strict=True):
            for name, token in zip(names, one.layout.ids, strict=True):
                found[name] = token if found.get(name, token) == token else None
        return found

    @cached_property
    def _columns(self) -> list[list[int]]:
        number = {name: i for i, name in enumerate(self._places)}
        return [[number[name] for name in names] for names in self._names]


def names_of(layout: Layout) -> Iterator[str]:
    """What each token of a prompt is called, as results.lenses.attention.Sink has it."""
    image = {token: i for i, token in enumerate(layout.image)}
    said = {token: i for i, token in enumerate(tokens_of(layout, STATEMENT))}
    behind, length = behind_from(layout), len(layout.ids)
    marks = iter(range(length))
    for token in range(length):
        if token in image:
            yield f"image:{image[token]}"
        elif token < behind:
            yield f"before:{token}" if token < layout.image[0] else f"within:{next(marks)}"
        elif token in said:
            yield f"statement:{said[token]}"
        else:
            yield f"behind:{token - behind}" if token < min(said) else f"end:{token - length}"
