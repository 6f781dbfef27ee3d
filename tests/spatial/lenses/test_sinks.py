"""Sinks that are planted at known tokens, in prompts of different length."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mllm_probe.models.prompts.prompt import Layout, Tail
from mllm_probe.records.samples import Sample
from mllm_probe.spatial.lenses.sinks import Sinks, names_of

TEXT = "a b c d e f"


def layout(words: int, mark: bool = False) -> Layout:
    """<s>, three picture tokens, with a mark between where asked for, a colon, so many words, two tokens behind."""
    text = TEXT[: 2 * words - 1]
    spans = ((-2, -1), *((2 * i, 2 * i + 1) for i in range(words)), (len(text), len(text) + 1), (len(text) + 1, 99))
    ids = (50, *range(10, 10 + words), 51, 52)
    head = (1, 3, 9, 3, 3) if mark else (1, 3, 3, 3)
    image = (1, 3, 4) if mark else (1, 2, 3)
    return Layout(Sample("u", (), (), text, {}), head, Tail("", ids, spans), (), image)


def prompt(words: int, **at: float) -> Any:
    """Attention [1, 1, L], what is left of 1 spread evenly."""
    own = layout(words)
    names = list(names_of(own))
    mean = np.zeros(len(names))
    for name, value in at.items():
        mean[names.index(name.replace("_", ":").replace("minus", "-"))] = value
    mean[mean == 0] = (1 - mean.sum()) / (mean == 0).sum()
    return SimpleNamespace(layout=own, mean=mean[None, None])


def test_tokens_are_named_by_where_they_stand() -> None:
    marked = ["before:0", "image:0", "within:0", "image:1", "image:2"]
    assert list(names_of(layout(2, mark=True))) == [
        *marked,
        "behind:0",
        "statement:0",
        "statement:1",
        "end:-2",
        "end:-1",
    ]


def test_a_sink_is_found_where_it_was_planted() -> None:
    """The end attracts much in all prompts, <s> in three of four, the second word in half, which are too few."""
    prompts = [
        prompt(2, end_minus1=0.4, before_0=0.2, statement_1=0.2),
        prompt(4, end_minus1=0.4, before_0=0.2, statement_1=0.2),
        prompt(5, end_minus1=0.4, before_0=0.2),
        prompt(6, end_minus1=0.5),
    ]
    sinks = Sinks(prompts, mass=0.15, prompts=0.5)
    end, begin = sinks.of(0, 0)
    assert (end.name, end.token, end.prompts) == ("end:-1", 52, 1.0) and end.mass == pytest.approx(0.425)
    assert (begin.name, begin.token, begin.prompts) == ("before:0", 1, 0.75)
    left = 0.5 / (len(prompts[3].layout.ids) - 1)
    assert begin.mass == pytest.approx((0.6 + left) / 4)
    assert sinks.share(0, 0) == pytest.approx([0.6, 0.6, 0.6, 0.5 + left])
    assert Sinks(prompts, 0.45, 0.5).of(0, 0) == [] and Sinks(prompts, 0.45, 0.5).share(0, 0).sum() == 0


def test_a_sink_whose_token_differs_has_no_token() -> None:
    prompts = [prompt(2, statement_0=0.5), prompt(3, statement_0=0.5)]
    other = prompts[1].layout
    swapped = Layout(
        other.sample, other.head, Tail("", (50, 77, *other.tail.ids[2:]), other.tail.offsets), (), other.image
    )
    prompts[1].layout = swapped
    (found,) = Sinks(prompts, 0.2, 0.5).of(0, 0)
    assert (found.name, found.token) == ("statement:0", None)
