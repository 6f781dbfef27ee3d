"""Train the two bundled checkpoints, `mini_base` and `mini`, from scratch on drawn scenes: first with 8 language
blocks, then with 12 that begin from them.

    python scripts/train_mini.py base --out shallow --steps 2000 --lr 1.2e-3   # the eyes, then captions
    python scripts/train_mini.py tune --out shallow --steps 3000 --lr 1.0e-3   # statements and questions on top
    deeper="--material harder --blocks 12 --lr 5e-4"
    python scripts/train_mini.py base $deeper --from shallow/mini_base --steps 600 --fall 200
    python scripts/train_mini.py tune $deeper --from shallow/mini --steps 2400 --fall 500

`--material harder` has up to five shapes, what is absent or denied, two relations in a row, and clips of up to four
pictures. `--from FOLDER --blocks N` begins from a checkpoint of fewer language blocks, between which the new ones are
put: `base` from a mini_base, `tune` from a mini.

Every step draws new pictures from a seed, so nothing is read from disk and no picture is seen twice. Runs on one CPU
thread; the checkpoints go to mllm_probe/bundled. With --state FOLDER the same command goes on where it was stopped, at
most --every steps before, and ends with the same weights; after every 500 steps a checkpoint is left there. Knows
nothing of probes: the layer curves in the model cards come from `mllm-probe run`.
"""

import argparse
import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
from mini_model import (
    BLOCKS,
    CHAT_TEMPLATE,
    IGNORED,
    PATCH,
    PIXELS,
    WIDTH,
    Packer,
    Row,
    make_model,
    make_processor,
    pad,
    take_over,
)
from mini_steps import Phase, Stepper
from mini_texts import MATERIALS, STAGES, STATEMENT_FORMS, Material, Text, ask
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from mllm_probe.data.drawing import COLOURS, KINDS, PLACES, SIZES, Scene, draw
from mllm_probe.data.facts import Fact, false_fact

BUNDLED = Path(__file__).resolve().parent.parent / "mllm_probe" / "bundled"
PROPERTIES = {"kind": KINDS, "colour": tuple(COLOURS), "size": tuple(SIZES)}


def loss_of(model: LlavaForConditionalGeneration, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    labels = batch["labels"][:, 1:]
    hidden = model.model(**{name: value for name, value in batch.items() if name != "labels"}).last_hidden_state
    wanted = labels != IGNORED
    return cross_entropy(model.lm_head(hidden[:, :-1][wanted]), labels[wanted])


@torch.no_grad()
def zero_shot(model: LlavaForConditionalGeneration, packer: Packer, pictures: int = 1000) -> dict[str, float]:
    """Share of yes/no statements answered rightly on held-out pictures, by how the false ones were made."""
    rng, packer = Random("held-out"), replace(packer, stage="tune")
    right = {"random": 0, "hard": 0}
    for _ in range(pictures // 50):
        scenes = [packer.material.scene(rng) for _ in range(50)]
        asked = [[_asked(fact) for fact in _four_facts(scene, rng, packer.material)] for scene in scenes]
        rows = [packer.row([scene], texts) for scene, texts in zip(scenes, asked, strict=True)]
        said = _answers(model, packer.processor, scenes, rows)
        for true, random_false, also_true, hard_false in said:
            right["random"] += true + (not random_false)
            right["hard"] += also_true + (not hard_false)
    return {name: count / (2 * pictures) for name, count in right.items()}


def _asked(fact: Fact) -> Text:
    return Text(ask(STATEMENT_FORMS[0].format(fact.text())), "")


def _four_facts(scene: Scene, rng: Random, material: Material) -> list[Fact]:
    """True, false by another scene, true, false by one change."""
    other = material.scene(rng)
    while not (borrowed := material.true(other, rng)).is_false_of(scene):
        other = material.scene(rng)
    one, two = material.true(scene, rng), material.true(scene, rng)
    return [one, borrowed, two, false_fact(scene, rng, material.forms)]


def _answers(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, scenes: list[Scene], rows: list[Row]
) -> list[list[bool]]:
    """Whether yes is likelier than no, for every text of every row."""
    yes, no = (processor.tokenizer(word, add_special_tokens=False).input_ids[0] for word in (" yes", " no"))
    batch = pad(rows, processor.tokenizer.pad_token_id)
    asked = batch.pop("labels")[:, 1:] != IGNORED
    pixels = processor.image_processor([draw(scene) for scene in scenes], return_tensors="pt")["pixel_values"]
    hidden = model.model(**batch, pixel_values=pixels).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][asked]).view(len(rows), -1, model.config.text_config.vocab_size)
    return (logits[..., yes] > logits[..., no]).tolist()


def train(model: LlavaForConditionalGeneration, packer: Packer, args: argparse.Namespace) -> float:
    """The loss is averaged over the learnt tokens. Returns the CPU seconds that it took."""
    phase = Phase(packer.stage, Stepper(model, args.lr, args.steps, fall=args.fall), args.steps, args)
    for step in phase.steps():
        rng = Random(f"{args.seed}/{packer.stage}/{step}")
        phase.take(loss_of(model, packer.batch(rng, **pictures_of(step, args.pictures, packer.material))))
        if packer.stage == "tune" and step % 250 == 249:
            print("zero-shot", zero_shot(model, packer, 200), flush=True)
        if args.state and (step + 1) % 500 == 0:
            save(model, packer, args.state / f"{packer.stage}-{step + 1}")
    return phase.seconds


def pictures_of(step: int, pictures: int, material: Material) -> dict[str, int | bool]:
    """What a step reads: one picture a row, but of eight steps two read clips, if there are any, and one several unlike
    pictures. Up to four pictures a row make few rows, so there such a step reads twice as many pictures."""
    counts, more = range(2, material.pictures + 1), 2 if material.pictures > 2 else 1
    if material.clips and step % 4 == 1:
        return {"pictures": more * pictures, "per_row": counts[step // 4 % len(counts)], "moving": True}
    if step % 8 == 7:
        return {"pictures": more * pictures, "per_row": counts[step // 8 % len(counts)]}
    return {"pictures": pictures}


def save(model: LlavaForConditionalGeneration, packer: Packer, folder: Path) -> None:
    """Write the checkpoint in float16; the model itself stays in float32."""
    packer.processor.chat_template = CHAT_TEMPLATE if packer.stage == "tune" else None
    copy = deepcopy(model).half()
    copy.save_pretrained(folder)
    packer.processor.save_pretrained(folder)


def cell_labels(scene: Scene) -> list[list[int]]:
    """[patches, properties]: kind, colour and size of the shape in each patch's cell of the canvas; 0 = nothing."""
    held = {
        shape.place: [values.index(getattr(shape, name)) + 1 for name, values in PROPERTIES.items()]
        for shape in scene.shapes
    }
    side = PIXELS // PATCH
    share = side // len(PLACES)  # patches along one side of a cell
    places = [PLACES[row // share][column // share] for row in range(side) for column in range(side)]
    return [held.get(place, [0] * len(PROPERTIES)) for place in places]


def train_eyes(model: LlavaForConditionalGeneration, packer: Packer, args: argparse.Namespace) -> float:
    """Teach the vision tower what stands where, patch by patch, before it meets the language model.

    Real multimodal models begin with a trained tower, too. The linear heads are thrown away. Returns CPU seconds.
    """
    tower = model.model.vision_tower
    heads = torch.nn.ModuleList(torch.nn.Linear(WIDTH, len(values) + 1) for values in PROPERTIES.values())
    phase = Phase("eyes", Stepper(tower, args.lr, args.eye_steps, heads), args.eye_steps, args)
    for step in phase.steps():
        rng = Random(f"{args.seed}/eyes/{step}")
        scenes = [packer.material.scene(rng) for _ in range(4 * args.pictures)]
        images = packer.processor.image_processor([draw(scene) for scene in scenes], return_tensors="pt")
        states = tower(images["pixel_values"], output_hidden_states=True).hidden_states[-1].flatten(0, 1)
        labels = torch.tensor([cell_labels(scene) for scene in scenes]).flatten(0, 1)
        logits = [head(states) for head in heads]
        phase.take(sum(cross_entropy(logit, labels[:, i]) for i, logit in enumerate(logits)))
        if step % 100 == 0 or step == args.eye_steps - 1:
            there = labels[:, 0] > 0
            right = [(x.argmax(-1) == labels[:, i])[there].float().mean().item() for i, x in enumerate(logits)]
            print({name: round(share, 3) for name, share in zip(PROPERTIES, right, strict=True)}, flush=True)
    return phase.seconds


def begin(args: argparse.Namespace) -> tuple[LlavaProcessor, LlavaForConditionalGeneration]:
    """What the first step changes: random weights, grown ones, or the end of the stage before."""
    if args.stage == "tune" and not args.former:
        folder = args.out / "mini_base"
        processor = LlavaProcessor.from_pretrained(folder)
        return processor, LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    processor = make_processor(args.seed, MATERIALS[args.material])
    model = make_model(processor, args.blocks)
    if args.former:
        take_over(model, processor.tokenizer, args.former)
    return processor, model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=tuple(STAGES))
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--from", type=Path, dest="former", help="a checkpoint of fewer blocks to begin from")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="of the language model")
    parser.add_argument("--material", choices=tuple(MATERIALS), default="plain")
    parser.add_argument("--eye-steps", type=int, default=1800, help="base without it: steps of the vision tower alone")
    parser.add_argument("--pictures", type=int, default=16, help="new pictures per step")
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--fall", type=int, help="last steps in which the rate falls to 0; else in all of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=BUNDLED)
    parser.add_argument("--state", type=Path, help="a folder for what is needed to go on after a stop")
    parser.add_argument("--every", type=int, default=50, help="steps between two writes of it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    processor, model = begin(args)
    packer = Packer(processor, args.stage, MATERIALS[args.material])
    seconds = train_eyes(model, packer, args) if args.stage == "base" and not args.former else 0.0
    seconds += train(model, packer, args)
    facts = {"stage": args.stage, "steps": args.steps, "pictures": args.pictures, "lr": args.lr, "seed": args.seed}
    facts |= {"CPU seconds": round(seconds), "zero_shot": zero_shot(model, packer)}
    save(model, packer, args.out / {"base": "mini_base", "tune": "mini"}[args.stage])
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
