"""Interventions on tails against what transformers computes of whole prompts, with masks and states put in by hand.

The oracle is a model loaded apart with eager attention: it knows pictures by their token id and the end of a prompt by
its length, and nothing of tails, spans or the engine's attention.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from mllm_probe.errors import ModelError
from mllm_probe.interventions.proof import disproved, last_states
from mllm_probe.models.hf import HFModel
from mllm_probe.models.tails.changes import edges_of
from mllm_probe.models.tails.engine import Tails
from mllm_probe.models.tails.plain import Plain
from mllm_probe.records.interventions import ADD, CUT, ERASE, REPLACE, Intervention
from mllm_probe.records.samples import Picked, Sample
from mllm_probe.records.sites import Site

TOP, WIDTH, IMAGE = 4, 64, 3  # of the tiny LLaVA: blocks, width, the id of picture tokens
LOWEST = torch.finfo(torch.float32).min
WORDS = [[5, 6], [7]]  # any ids will do, and one word has two


@pytest.fixture(scope="module")
def tails(model: HFModel) -> Tails:
    return Tails(model, model._blueprint, WORDS, "cpu")


@pytest.fixture(scope="module")
def plain(model: HFModel) -> Plain:
    return Plain(model, model._blueprint, WORDS)


@pytest.fixture(scope="module")
def eager(checkpoint: Path) -> Any:
    found = LlavaForConditionalGeneration.from_pretrained(checkpoint, attn_implementation="eager")
    return found.float().eval().requires_grad_(False)


Hook = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def at(module: Any, change: Hook) -> Iterator[None]:
    """Change what a module returns."""

    def hook(_module: Any, _args: Any, out: Any) -> Any:
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def naive(
    eager: Any,
    model: HFModel,
    sample: Sample,
    masks: Mapping[int, torch.Tensor] | None = None,
    states: Mapping[int, Hook] | None = None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Last state of a prompt behind the last block [D], and all states [L, D] behind each block; `masks` {block: edges
    [L, L] that are cut}, `states` {block: what is made of its output}."""
    inputs = model._blueprint.process([sample])
    length, found = inputs["input_ids"].shape[1], []
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    with ExitStack() as stack:
        for number, block in enumerate(eager.model.language_model.layers, 1):
            seen = causal & ~masks[number] if masks and number in masks else causal
            mask = torch.zeros(length, length).masked_fill(~seen, LOWEST)[None, None]
            handle = block.register_forward_pre_hook(
                lambda _m, args, more, mask=mask: (args, {**more, "attention_mask": mask}), with_kwargs=True
            )
            stack.callback(handle.remove)
            if states and number in states:
                stack.enter_context(at(block, states[number]))
            stack.enter_context(at(block, lambda out: found.append(out[0].clone()) or out))
        eager.model(**inputs, use_cache=False)
    return found[-1][-1], found


def picture(model: HFModel, sample: Sample) -> torch.Tensor:
    """Which tokens of a prompt are its picture's [L] bool."""
    return model._blueprint.process([sample])["input_ids"][0] == IMAGE


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((found - wanted).norm() <= 1e-5 * wanted.norm())


def test_the_picture_cut_off_is_the_picture_masked(
    tails: Tails, eager: Any, model: HFModel, samples: Sequence[Sample]
) -> None:
    """By an ordinary mask of the picture's columns, picture rows exempt."""
    cut = Intervention(CUT, "behind", source="image", window=(1, TOP))
    found = last_states(tails, samples, [cut])[1]
    for own, sample in zip(found, samples, strict=True):
        image = picture(model, sample)
        behind = torch.arange(len(image)) > image.nonzero().max()
        wanted, _ = naive(eager, model, sample, dict.fromkeys(range(1, TOP + 1), behind[:, None] & image))
        assert close(own, wanted)
        assert not close(own, naive(eager, model, sample)[0])


@pytest.mark.parametrize("window", [(1, 1), (2, 3), (4, 4)])
def test_edges_of_the_end_are_cut_in_the_window_alone(
    tails: Tails, eager: Any, model: HFModel, samples: Sequence[Sample], window: tuple[int, int]
) -> None:
    cut = Intervention(CUT, "last", source="image", window=window)
    found = last_states(tails, samples, [cut])[1]
    for own, sample in zip(found, samples, strict=True):
        image = picture(model, sample)
        last = torch.arange(len(image)) == len(image) - 1
        blocks = range(window[0], window[1] + 1)
        assert close(own, naive(eager, model, sample, dict.fromkeys(blocks, last[:, None] & image))[0])


def test_random_edges_are_as_many_and_equal_a_dense_mask(
    tails: Tails, eager: Any, model: HFModel, samples: Sequence[Sample]
) -> None:
    real = Intervention(CUT, "statement", source="image", window=(2, 3))
    drawn = [Intervention(CUT, "statement", source="image", window=(2, 3), payload=seed) for seed in (1, 2)]
    found = last_states(tails, samples[:4], drawn)[1:]
    for n, sample in enumerate(samples[:4]):
        inputs = model._blueprint.process([sample])
        (layout,) = model._blueprint.layouts([sample], inputs)
        behind = int(picture(model, sample).nonzero().max()) + 1
        edges = [edges_of(layout, one) for one in drawn]
        assert {one.sum() for one in edges} == {edges_of(layout, real).sum()}
        assert (edges[0] != edges[1]).any()
        for own, some in zip(found[:, n], edges, strict=True):
            whole = torch.zeros(len(layout.ids), len(layout.ids), dtype=torch.bool)
            whole[behind:] = torch.from_numpy(some)
            assert not (whole & ~torch.ones_like(whole).tril(-1)).any(), "a token reads itself and none behind it"
            assert close(own, naive(eager, model, sample, {2: whole, 3: whole})[0])


def picked(samples: Sequence[Sample]) -> list[Sample]:
    """Each with an object of its own in the picture, those of one picture too."""
    return [replace(sample, picked=Picked((n % 5, 6 + n % 3))) for n, sample in enumerate(samples)]


@pytest.mark.parametrize("way", ["tails", "plain"])
def test_edges_of_an_object_are_those_of_its_own_picture_tokens(
    way: str, eager: Any, model: HFModel, samples: Sequence[Sample], request: pytest.FixtureRequest
) -> None:
    """Statements about one picture lie in one pass, and each has another object."""
    cuts = [Intervention(CUT, "behind", source=source, window=(1, 2)) for source in ("object", "rest")]
    found = last_states(request.getfixturevalue(way), picked(samples), cuts)[1:]
    for n, sample in enumerate(samples):
        image = picture(model, sample)
        places, behind = image.nonzero()[:, 0], torch.arange(len(image)) > image.nonzero().max()
        own = torch.zeros_like(image).index_fill(0, places[[n % 5, 6 + n % 3]], True)
        for states, keys in zip(found[:, n], (own, image & ~own), strict=True):
            assert close(states, naive(eager, model, sample, dict.fromkeys((1, 2), behind[:, None] & keys))[0])


def test_who_reads_itself_alone_knows_its_own_token_alone(tails: Tails, samples: Sequence[Sample]) -> None:
    """All prompts end in one token."""
    found = tails.outcomes(samples, [Intervention(CUT, "last", source="all", window=(1, TOP))])
    assert np.ptp(found.clean_d) > 0.1
    np.testing.assert_allclose(found.d[0], found.d[0, 0], atol=1e-5)


@pytest.mark.parametrize("span", ["statement", "last", "all"])
def test_what_changes_nothing_gives_the_same_bits(tails: Tails, samples: Sequence[Sample], span: str) -> None:
    """An empty set of edges, nothing added, and each prompt's own states, in batches of one shape."""
    same, site = {sample.uid: sample.uid for sample in samples}, Site("lm", 2)
    still = [
        Intervention(ADD, span, site, payload=torch.zeros(WIDTH)),
        Intervention(REPLACE, span, site, payload=same),
        *([Intervention(CUT, span, source="last", window=(3, 4))] if span != "all" else []),
    ]
    found = [tails.outcomes(samples, [one]) for one in still]
    assert all(np.array_equal(one.d, found[0].d) and np.array_equal(one.p, found[0].p) for one in found)
    np.testing.assert_allclose(found[0].d[0], found[0].clean_d, atol=2e-5)


@pytest.fixture(scope="module")
def donors(model: HFModel, samples: Sequence[Sample]) -> dict[str, str]:
    """Prompts of equal length about different pictures."""
    length = {one.uid: len(picture(model, one)) for one in samples}
    found = {}
    for one in samples:
        for other in samples:
            if one.digests != other.digests and length[one.uid] == length[other.uid]:
                found.setdefault(one.uid, other.uid)
    assert len(found) >= 4
    return found


def test_patching_is_overwriting_by_hand(
    tails: Tails, eager: Any, model: HFModel, samples: Sequence[Sample], donors: Mapping[str, str]
) -> None:
    """States of a span, as they are behind a block of the other prompt."""
    known = {sample.uid: sample for sample in samples}
    patched = {span: Intervention(REPLACE, span, Site("lm", 2), payload=donors) for span in ("image", "last", "all")}
    found = dict(zip(patched, last_states(tails, samples, list(patched.values()))[1:], strict=True))
    for n, sample in enumerate(samples):
        if sample.uid not in donors:
            assert found["all"][n].isnan().all(), "who has no donor is left out"
            continue
        _, other = naive(eager, model, known[donors[sample.uid]])
        image = picture(model, sample)
        for span, where in (("image", image), ("last", torch.arange(len(image)) == len(image) - 1)):
            here = {2: lambda out, where=where, other=other: torch.where(where[:, None], other[1], out)}
            assert close(found[span][n], naive(eager, model, sample, states=here)[0]), span


def test_all_tokens_give_the_other_answer_and_the_end_does_at_the_top(
    tails: Tails, samples: Sequence[Sample], donors: Mapping[str, str]
) -> None:
    whole = [Intervention(REPLACE, "all", Site("lm", k), payload=donors) for k in range(TOP + 1)]
    ends = [Intervention(REPLACE, "last", Site("lm", k), payload=donors) for k in (0, TOP)]
    found = tails.outcomes(samples, [*whole, *ends])
    d = dict(zip(found.uids, found.clean_d, strict=True))
    rows = [n for n, uid in enumerate(found.uids) if uid in donors]
    clean = np.asarray([d[donors[found.uids[n]]] for n in rows])
    for k in range(TOP + 1):
        np.testing.assert_allclose(found.d[k, rows], clean, atol=2e-5)
    np.testing.assert_allclose(found.d[-2, rows], found.clean_d[rows], atol=2e-5)
    np.testing.assert_allclose(found.d[-1, rows], clean, atol=2e-5)


def test_prompts_of_other_lengths_cannot_be_patched(tails: Tails, samples: Sequence[Sample]) -> None:
    first, other = samples[0], next(one for one in samples if len(one.text) != len(samples[0].text))
    with pytest.raises(ModelError, match="tokens cannot take states"):
        tails.outcomes(samples, [Intervention(REPLACE, "all", Site("lm", 1), payload={first.uid: other.uid})])


def test_picture_rows_stay_as_they_are_bit_for_bit(eager: Any, model: HFModel, samples: Sequence[Sample]) -> None:
    """Edges into rows behind the picture change none of its own rows: heads may be computed once."""
    image = picture(model, samples[0])
    behind = torch.arange(len(image)) > image.nonzero().max()
    _, clean = naive(eager, model, samples[0])
    _, cut = naive(eager, model, samples[0], dict.fromkeys(range(1, TOP + 1), behind[:, None] & image))
    assert all(torch.equal(one[image], other[image]) for one, other in zip(clean, cut, strict=True))
    assert not torch.equal(clean[0][behind], cut[0][behind])


def test_steering_at_the_top_moves_the_answer_by_the_words_rows(
    tails: Tails, model: HFModel, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind an identity norm exactly by a s u . (W_first - W_second), with one id a word; else to first order."""
    monkeypatch.setattr(tails._reader._words._norm, "forward", lambda states: states)
    rows, step = model.network.get_output_embeddings().weight, torch.linspace(-1, 1, WIDTH)
    monkeypatch.setattr(tails._reader, "_ids", [torch.tensor([5]), torch.tensor([7])])
    found = tails.outcomes(samples, [Intervention(ADD, "last", Site("lm", TOP), payload=step)])
    np.testing.assert_allclose(found.d[0] - found.clean_d, float((rows[5] - rows[7]) @ step), rtol=1e-4)
    monkeypatch.setattr(tails._reader, "_ids", [torch.tensor([5, 6]), torch.tensor([7])])
    small = tails.outcomes(samples, [Intervention(ADD, "last", Site("lm", TOP), payload=1e-3 * step)])
    slopes = tails.gradients(samples, [Site("lm", TOP)], "last")[Site("lm", TOP)] @ step
    np.testing.assert_allclose((small.d[0] - small.clean_d) / 1e-3, slopes.numpy(), rtol=0.02, atol=5e-3)


@pytest.mark.parametrize("span", ["last", "statement"])
@pytest.mark.parametrize("site", [Site("lm", 0), Site("lm", 2), Site("lm", 3, "attn"), Site("lm", 2, "mlp")])
def test_slopes_are_finite_differences(tails: Tails, samples: Sequence[Sample], site: Site, span: str) -> None:
    step = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    both = [Intervention(ADD, span, site, payload=sign * 2e-3 * step) for sign in (-1, 1)]
    minus, plus = tails.outcomes(samples, both).d
    slopes = (tails.gradients(samples, [site], span)[site] @ step).numpy()
    np.testing.assert_allclose((plus - minus) / 4e-3, slopes, rtol=0.02, atol=0.02 * np.abs(slopes).max())


def everything(donors: Mapping[str, str]) -> list[Intervention]:
    """Of each kind at each place where it makes a difference."""
    step, half = torch.linspace(-1, 1, WIDTH), Site("lm", 2)
    sites = [Site("lm", 0), half, Site("lm", 2, "attn"), Site("lm", 3, "mlp"), Site("lm", TOP)]
    return [
        *[Intervention(CUT, "statement", source="image", window=window) for window in ((1, TOP), (2, 2))],
        Intervention(CUT, "last", source="statement", window=(2, 3)),
        Intervention(CUT, "behind", source="template", window=(1, 2)),
        Intervention(CUT, "last", source="mark:caption", window=(3, TOP)),
        *[Intervention(ADD, span, site, payload=step) for site in sites for span in ("image", "statement", "last")],
        *[
            Intervention(REPLACE, span, site, payload=donors)
            for site in sites
            for span in ("image", "statement", "all")
        ],
        *[Intervention(ERASE, span, half, payload=lambda rows: 0.5 * rows) for span in ("last", "statement", "image")],
    ]


def test_tails_are_whole_prompts(
    tails: Tails, plain: Plain, samples: Sequence[Sample], donors: Mapping[str, str]
) -> None:
    objects = [
        Intervention(CUT, "statement", source=source, window=(1, 3), payload=draw)
        for source in ("object", "rest")
        for draw in (None, 1)
    ]
    tried = [*everything(donors), *objects]
    found, wanted = (last_states(one, picked(samples), tried) for one in (tails, plain))
    assert torch.equal(found.isnan(), wanted.isnan())
    off = (found - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    assert float(off.nan_to_num().max()) < 1e-5
    assert disproved(tails, plain, samples[:4], "float32") == ""


def test_a_head_that_ends_one_token_early_is_disproved(
    tails: Tails, plain: Plain, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mllm_probe.models.tails import clean

    kept = clean.keeping
    monkeypatch.setattr(clean, "keeping", lambda heads, lengths: kept(heads, [length - 1 for length in lengths]))
    assert "off" in disproved(tails, plain, samples[:4], "float32")
