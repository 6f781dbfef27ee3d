"""What interventions cost: the engine of `mllm-probe intervene` against one full pass a condition.

    OMP_NUM_THREADS=1 python scripts/bench_intervene.py --setting small-16   # 576 picture tokens, 16 blocks
    OMP_NUM_THREADS=1 python scripts/bench_intervene.py --setting mini       # the bundled model in nf4
    python scripts/bench_intervene.py --setting llava-7b --device cuda       # real size, random weights, nf4

Every block as centre of a window, four edges, `--statements` about each of `--pictures`. The naive arm is what people
write: the whole prompt once for each condition, in the best of several batches, transformers' `sdpa`, a dense mask with
the edges cut put in by a hook on each block of the window. `without tower` is the same arm where the vision tower ran
once before, which spares it more than half of its work. The naive arms are spared decoding and tokenising, and run on
some conditions, evenly spread; the engine runs on all. Times are for one prompt under one condition. `allowed` is
tokens times blocks of the language model, naive over engine, where whole tails are computed. `difference` is the
largest relative difference between the arms' last states; `memory` what an arm takes beside the weights.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from bench_extract import peak_bytes, statements
from bench_models import SETTINGS, make

from mllm_probe.interventions.proof import last_states
from mllm_probe.models.hf import HFModel
from mllm_probe.models.tails.changes import edges_of, first_block
from mllm_probe.models.tails.engine import Tails
from mllm_probe.records.interventions import CUT, Intervention
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import Site

EDGES = (("image", "statement"), ("image", "last"), ("statement", "last"), ("image", "behind"))
BATCHES = (1, 2, 5, 10)


def conditions(blocks: int) -> list[Intervention]:
    """Every block as the centre of a window of min(9, blocks // 4)."""
    width = max(1, min(9, blocks // 4))
    windows = [(max(1, c - width // 2), min(blocks, c + (width - 1) // 2)) for c in range(1, blocks + 1)]
    return [Intervention(CUT, span, source=source, window=window) for window in windows for source, span in EDGES]


class Naive:
    """Whole prompts, one condition after the other."""

    def __init__(self, model: HFModel, samples: Sequence[Sample]) -> None:
        self._model, self._samples = model, samples
        self._blocks = [model.module(Site("lm", k))[0] for k in range(1, model.anatomy.blocks["lm"] + 1)]
        self._blueprint = model._blueprint
        self._embedded = [self._embed(sample) for sample in samples]
        self._pixels = model.moved(self._blueprint.process(samples))["pixel_values"]

    def _embed(self, sample: Sample) -> tuple[Any, torch.Tensor]:
        """The layout of a prompt, and what the first block receives of it [L, D]."""
        inputs = self._blueprint.process([sample])
        (layout,) = self._blueprint.layouts([sample], inputs)
        found: list[torch.Tensor] = []
        handle = self._blocks[0].register_forward_pre_hook(
            lambda _m, args, more: found.append(args[0] if args else more["hidden_states"]), with_kwargs=True
        )
        try:
            self._model.network.base_model(**self._model.moved(inputs), use_cache=False)
        finally:
            handle.remove()
        return layout, found[0][0]

    def run(self, chosen: Sequence[Intervention], batch: int, tower: bool = True) -> torch.Tensor:
        """[chosen, N, D]: the last states under each."""
        found = []
        for one in chosen:
            parts = [
                range(start, min(start + batch, len(self._samples))) for start in range(0, len(self._samples), batch)
            ]
            found.append(torch.cat([self._pass(one, part, tower) for part in parts]))
        return torch.stack(found)

    def _pass(self, one: Intervention, rows: Sequence[int], tower: bool) -> torch.Tensor:
        some = [self._embedded[row] for row in rows]
        length = max(len(states) for _, states in some)
        device = some[0][1].device
        states = some[0][1].new_zeros(len(some), length, some[0][1].shape[1])
        seen = torch.ones(length, length, dtype=torch.bool).tril().repeat(len(some), 1, 1, 1)
        cut = seen.clone()
        for i, (layout, own) in enumerate(some):
            states[i, : len(own)] = own
            edges = torch.from_numpy(edges_of(layout, one))
            cut[i, 0, len(own) - len(edges) : len(own), : len(own)] &= ~edges
        top: list[torch.Tensor] = []
        with self._masked(one.window or (1, 0), cut.to(device)), self._kept(top):
            if tower:
                self._model.network.get_image_features(pixel_values=self._pixels[list(rows)])
            self._model.network.base_model.language_model(
                inputs_embeds=states, attention_mask=seen.to(device), use_cache=False
            )
        return torch.stack([top[0][i, len(own) - 1] for i, (_, own) in enumerate(some)])

    @contextmanager
    def _masked(self, window: tuple[int, int], cut: torch.Tensor) -> Iterator[None]:
        with ExitStack() as stack:
            for block in self._blocks[window[0] - 1 : window[1]]:
                hook = block.register_forward_pre_hook(
                    lambda _m, args, more: (args, {**more, "attention_mask": cut}), with_kwargs=True
                )
                stack.callback(hook.remove)
            yield

    @contextmanager
    def _kept(self, top: list[torch.Tensor]) -> Iterator[None]:
        hook = self._blocks[-1].register_forward_hook(
            lambda _m, _a, out: top.append(out[0] if isinstance(out, tuple) else out)
        )
        try:
            yield
        finally:
            hook.remove()


def seconds(run: Any, device: str) -> float:
    """CPU seconds, or those of the wall where a card computes."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    started = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - started


@torch.inference_mode()
def compare(model: HFModel, samples: list[Sample], some: int, device: str) -> dict[str, Any]:
    words = model._blueprint.answers("answer:Yes/No") if "mini" in model._blueprint.folder.name else [[5], [6]]
    blocks, engine = model.anatomy.blocks["lm"], Tails(model, model._blueprint, words, device)
    whole = conditions(blocks)
    chosen = [whole[i * len(whole) // some] for i in range(some)]
    first = samples[: max(BATCHES)]
    naive = Naive(model, first)
    naive.run(chosen[:1], 1), engine.outcomes(first[:1], chosen[:1])
    ours = seconds(lambda: engine.outcomes(samples, whole), device) / len(whole) / len(samples)
    theirs = {
        batch: seconds(lambda batch=batch: naive.run(chosen, batch), device) / some / len(first) for batch in BATCHES
    }
    best = min(theirs, key=theirs.__getitem__)
    bare = seconds(lambda: naive.run(chosen, best, tower=False), device) / some / len(first)
    found, oracle = last_states(engine, first, chosen)[1:], naive.run(chosen, best).float().cpu()
    return {
        "ratio": theirs[best] / ours,
        "ratio without tower": bare / ours,
        "allowed": _allowed(naive, whole, blocks),
        "ours, ms": 1e3 * ours,
        "naive, ms": 1e3 * theirs[best],
        "best batch": best,
        "difference": float(((found - oracle).norm(dim=-1) / oracle.norm(dim=-1)).max()),
        "memory, MB": {
            "ours": peak_bytes(lambda: engine.outcomes(first, whole)) / 1e6,
            "naive": peak_bytes(lambda: naive.run(chosen[:1], best)) / 1e6,
        },
    }


def _allowed(naive: Naive, whole: Sequence[Intervention], blocks: int) -> float:
    """Tokens times blocks of the naive way, over those of tails from their first block on, a head once a picture, and
    a clean pass of each tail."""
    layouts = [layout for layout, _ in naive._embedded]
    tails = [len(layout.ids) - layout.image[-1] - 1 for layout in layouts]
    heads = [layout.image[-1] + 1 for layout in layouts]
    full = sum(len(layout.ids) for layout in layouts) * blocks * len(whole)
    changed = sum(tails) * sum(blocks + 1 - first_block(one) for one in whole)
    return full / (changed + sum(tails) * blocks + heads[0] * blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="small-16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pictures", type=int, default=1)
    parser.add_argument("--statements", type=int, default=10)
    parser.add_argument("--conditions", type=int, default=6, help="on which the naive arm runs")
    parser.add_argument("--tiny", action="store_true", help="to try the way")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = make(args.setting, Path(folder) / "model", args.device, args.tiny)
        model.keep_dequantised()
        samples = statements(Path(folder), args.pictures * args.statements, args.statements)
        for name, value in compare(model, samples, args.conditions, args.device).items():
            print(f"{name}: {value if isinstance(value, dict) else round(value, 7)}")


if __name__ == "__main__":
    main()
