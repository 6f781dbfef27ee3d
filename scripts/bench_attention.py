"""What reading attention costs: `mllm-probe lens lens=[attention]` against the same passes without it.

    OMP_NUM_THREADS=1 python scripts/bench_attention.py --setting small-16   # 576 picture tokens, 16 blocks
    OMP_NUM_THREADS=1 python scripts/bench_attention.py --setting mini       # the bundled model in nf4

`--statements` about one picture, all blocks, the rows of the statement's tokens and the last one; both arms make the
same passes over the same batches. `memory` is what an arm takes at its peak beside the weights, the maps that are kept
among it; `whole matrices` is what eager attention would hand out for one prompt (output_attentions=True).
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench_extract import peak_bytes, statements
from bench_models import SETTINGS, make

from mllm_probe.models.attended import Reader
from mllm_probe.models.hf import HFModel
from mllm_probe.models.tails.blocks import Blocks
from mllm_probe.records.samples import Sample
from mllm_probe.records.spans import LAST, STATEMENT

SPANS = STATEMENT, LAST


def plain(model: HFModel, samples: Sequence[Sample], batch: int) -> None:
    """The passes of a `Reader`, in its batches, that reads nothing."""
    blocks = Blocks(model)
    for start in range(0, len(samples), batch):
        blocks.run(dict(model._blueprint.process(samples[start : start + batch])), None)


@torch.inference_mode()
def compare(model: HFModel, samples: list[Sample]) -> dict[str, Any]:
    blocks = tuple(range(1, model.anatomy.blocks["lm"] + 1))
    reader = Reader(model, model._blueprint, blocks)
    batch = reader._at_once(samples[0])
    plain(model, samples[:1], 1)
    memory, seconds = {}, {}
    for name, run in (
        ("plain", lambda: plain(model, samples, batch)),
        ("attention", lambda: list(reader.read(samples, SPANS))),
    ):
        started = time.process_time()
        memory[name] = peak_bytes(run) / 1e6
        seconds[name] = time.process_time() - started
    first = next(iter(reader.read(samples[:1], SPANS)))
    heads, length = model._blueprint.config.get_text_config().num_attention_heads, len(first.layout.ids)
    return {
        "statements": len(samples),
        "tokens of a prompt": length,
        "prompts in a pass": batch,
        "memory, MB": memory,
        "ratio of memory": memory["attention"] / memory["plain"],
        "CPU seconds": seconds,
        "whole matrices of one prompt, MB": 4 * len(blocks) * heads * length**2 / 1e6,
        "rows sum to": float(first.mean.sum(-1).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="small-16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--statements", type=int, default=100)
    parser.add_argument("--tiny", action="store_true", help="to try the way")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = make(args.setting, Path(folder) / "model", args.device, args.tiny)
        model.keep_dequantised()
        samples = statements(Path(folder), args.statements, args.statements)
        for name, value in compare(model, samples).items():
            print(f"{name}: {value if isinstance(value, dict) else round(value, 4)}")


if __name__ == "__main__":
    main()
