"""How often the bundled `mini` answers yes/no statements rightly, without any probe, on new pictures.

    python scripts/check_mini.py                 # the numbers of its model card

Both tasks as `mllm-probe run` asks them, through nf4 and in float32. Compares the logits of " yes" and " no" at the
last prompt token.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from mllm_probe.config.model import ModelSettings, PromptSettings
from mllm_probe.data.coco import Selection
from mllm_probe.data.scenes import Scenes
from mllm_probe.extraction.taps import read_states
from mllm_probe.files.digests import Digests
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.models.loading.checkpoint import BUNDLED
from mllm_probe.records.protocols import Task
from mllm_probe.records.samples import Examples, Sample
from mllm_probe.records.sites import Key
from mllm_probe.tasks.entailment import Entailment
from mllm_probe.tasks.objects import Objects
from mllm_probe.tasks.splits import Folds


def held_out(task: Task, pictures: int, seed: int, folder: Path) -> Examples:
    """The task on scenes drawn from a seed that no training step used."""
    collection = Scenes(pictures=pictures, seed=seed).load(folder, Selection(), Digests(folder / "digests.json"))
    return task.examples(collection, Folds())


def load_mini(quantization: str) -> HFModel:
    settings = ModelSettings(quantization=quantization, dtype="float32")
    return load_model(Blueprint(BUNDLED / "mini", settings, PromptSettings(), "right"), "cpu")


@torch.inference_mode()
def yes_odds(model: HFModel, samples: list[Sample], batch: int = 50) -> torch.Tensor:
    """Log-odds of yes against no at the last token of each prompt, [B]."""
    tokenizer, key = model._blueprint.processor.tokenizer, Key(model.anatomy.sites()[-1], "last")
    yes, no = (tokenizer(word, add_special_tokens=False).input_ids[0] for word in (" yes", " no"))
    odds = []
    for i in range(0, len(samples), batch):
        chunk = read_states(model, model.collate(samples[i : i + batch], [key]), [key], torch.float32)
        logits = model._model.lm_head(chunk.values[key])
        odds.append(logits[:, yes] - logits[:, no])
    return torch.cat(odds)


def accuracy(model: HFModel, examples: Examples) -> float:
    """Share of decisions answered rightly."""
    samples = list(examples.samples)
    said = dict(zip((sample.uid for sample in samples), (yes_odds(model, samples) > 0).tolist(), strict=True))
    return sum(said[d.sample] == bool(d.label) for d in examples.decisions) / len(examples.decisions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for task in (Entailment(), Objects()):
            examples = held_out(task, args.pictures, args.seed, Path(folder))
            for quantization in ("nf4", "none"):
                share = accuracy(load_mini(quantization), examples)
                print(f"{task.name}, {quantization}: {share:.3f} of {len(examples.decisions)} decisions")


if __name__ == "__main__":
    main()
