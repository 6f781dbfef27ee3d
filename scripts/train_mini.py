"""Train the two bundled checkpoints, `mini_base` and then `mini`, from scratch on drawn scenes.

    python scripts/train_mini.py base            # captions only                 -> mllm_probe/bundled/mini_base
    python scripts/train_mini.py tune            # statements and questions too  -> mllm_probe/bundled/mini

Every step draws new pictures from a seed, so nothing is read from disk and no picture is seen twice. All texts about
one picture stand behind one copy of its tokens, in one row: each text attends to the picture and to itself alone.
Knows nothing of probes; the layer curves in the model cards come from `mllm-probe run`.
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.siglip import SiglipImageProcessorPil

from mllm_probe.data.drawing import COLOURS, KINDS, PLACES, SIZES, Scene, Shape, draw, random_scene
from mllm_probe.data.facts import NUMBERS, Thing, false_fact, true_fact

BUNDLED = Path(__file__).resolve().parent.parent / "mllm_probe" / "bundled"
IMAGE, PIXELS, PATCH = "<image>", 48, 8
TOKENS_PER_IMAGE = (PIXELS // PATCH) ** 2
IGNORED = -100
PROPERTIES = (KINDS, tuple(COLOURS), tuple(SIZES))
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'][0]['text'] + ' ' }}{% else %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CAPTION_FORMS = ("{}", "{}", "{}.", "This image contains: {}.", "The image shows {}.")
STATEMENT_FORMS = (
    "This image contains: {}. Is this right?",
    "This image contains: {}. Is this right?",
    "Does the image show this: {}?",
    "Statement: {}. Is it true of the image?",
)


@dataclass(frozen=True)
class Text:
    """One text behind a picture: `prompt` is read, `target` is learnt."""

    prompt: str
    target: str


@dataclass
class Row:
    """One packed row: the token ids, the text each belongs to (0 = shared picture part), positions and labels."""

    ids: list[int]
    segments: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shared = len(self.ids)
        self.segments, self.positions = [0] * self.shared, list(range(self.shared))
        self.labels = [IGNORED] * self.shared

    def add(self, prompt: list[int], target: list[int]) -> None:
        ids = prompt + target
        self.ids += ids
        self.segments += [self.segments[-1] + 1] * len(ids)
        self.positions += range(self.shared, self.shared + len(ids))
        self.labels += [IGNORED] * len(prompt) + target


def base_texts(scenes: list[Scene], rng: Random) -> list[Text]:
    if len(scenes) == 1:
        captions = [Text("", rng.choice(CAPTION_FORMS).format(true_fact(scenes[0], rng).text())) for _ in range(4)]
        return captions + [
            Text(f"In the {place} there is", f" {_content(scenes[0], place)}.") for place in _places(scenes[0], rng)
        ]
    texts = []
    for _ in range(5):
        i = rng.randrange(2)
        texts.append(Text(f"The {('first', 'second')[i]} image contains:", f" {true_fact(scenes[i], rng).text()}."))
    return texts


def tune_texts(scenes: list[Scene], rng: Random) -> list[Text]:
    if len(scenes) == 2:
        return [_statement(scenes, rng.randrange(2), rng) for _ in range(5)]
    scene = scenes[0]
    shape = rng.choice(scene.shapes)
    kind = Thing(kind=shape.kind) if rng.random() < 0.5 else Thing(colour=shape.colour)
    number = NUMBERS[sum(map(kind.matches, scene.shapes))]
    place = _places(scene, rng)[0]
    listed = "a picture of " + true_fact(scene, rng).text()
    return [
        *(_statement(scenes, 0, rng) for _ in range(4)),
        _presence(scene, rng),
        _presence(scene, rng),
        Text(_ask(f"How many {kind.noun(plural=True)} are there?"), f" {number}"),
        Text(_ask(f"What is in the {place}?"), f" {_content(scene, place)}"),
        Text(_ask("Describe the image."), f" {listed}"),
    ]


def _places(scene: Scene, rng: Random) -> list[str]:
    """Up to three places that hold a shape, and one of any kind."""
    held = [shape.place for shape in scene.shapes]
    return [*rng.sample(held, min(3, len(held))), rng.choice([place for row in PLACES for place in row])]


def _content(scene: Scene, place: str) -> str:
    """The shape in a place; no cell holds two."""
    found = [shape for shape in scene.shapes if shape.place == place]
    return f"a {found[0].colour} {found[0].kind}" if found else "nothing"


def _ask(question: str) -> str:
    return f"{question} ASSISTANT:"


def _statement(scenes: list[Scene], i: int, rng: Random) -> Text:
    """A true caption, a hard false one (one change) or a caption of another scene, half of them true."""
    scene, true = scenes[i], rng.random() < 0.5
    fact = true_fact(scene, rng) if true else _other_fact(scene, rng)
    form = rng.choice(STATEMENT_FORMS)
    if len(scenes) == 2:
        form = f"The {('first', 'second')[i]} image contains: {{}}. Is this right?"
    return Text(_ask(form.format(fact.text())), " yes" if true else " no")


def _other_fact(scene: Scene, rng: Random):
    if rng.random() < 0.5:
        return false_fact(scene, rng)
    while not (fact := true_fact(random_scene(rng), rng)).is_false_of(scene):
        pass
    return fact


def _presence(scene: Scene, rng: Random) -> Text:
    there = {(s.colour, s.kind) for s in scene.shapes}
    if rng.random() < 0.5:
        colour, kind = rng.choice(sorted(there))
        answer = " yes"
    else:
        absent = [(c, k) for c in COLOURS for k in KINDS if (c, k) not in there]
        near = [(c, k) for c, k in absent if any(c == tc or k == tk for tc, tk in there)]
        colour, kind = rng.choice(near if rng.random() < 0.5 else absent)
        answer = " no"
    return Text(_ask(f"Is there a {colour} {kind} in this image?"), answer)


STAGES = {"base": base_texts, "tune": tune_texts}


def make_processor(seed: int) -> LlavaProcessor:
    """Byte-level BPE, so that any caption can be written; the words of scenes are one token each."""
    rng = Random(f"tokenizer/{seed}")
    corpus = []
    for _ in range(3000):
        scenes = [random_scene(rng), random_scene(rng)]
        for texts in (base_texts(scenes[:1], rng), base_texts(scenes, rng), tune_texts(scenes[:1], rng)):
            corpus += [f"USER: \n{text.prompt}{text.target}" for text in texts]
        corpus += [f"USER: \n{text.prompt}{text.target}" for text in tune_texts(scenes, rng)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<s>", "</s>", IMAGE]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=704, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=2048,
        extra_special_tokens={"image_token": IMAGE},
    )
    images = SiglipImageProcessorPil(size={"height": PIXELS, "width": PIXELS})
    return LlavaProcessor(
        images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="full", chat_template=CHAT_TEMPLATE
    )


def make_model(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    tokenizer = processor.tokenizer
    vision = SiglipVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        image_size=PIXELS,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=8,
        num_attention_heads=4,
        max_position_embeddings=2048,
        initializer_range=0.06,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_seq_length=TOKENS_PER_IMAGE,
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config)


@dataclass(frozen=True)
class Packer:
    """Scenes and texts -> the model's inputs, in the very words of the chat template."""

    processor: LlavaProcessor
    stage: str

    def row(self, scenes: list[Scene], texts: list[Text]) -> Row:
        pictures = f"{IMAGE * TOKENS_PER_IMAGE}\n" * len(scenes)
        row = Row(self.processor.tokenizer(pictures if self.stage == "base" else "USER: " + pictures).input_ids)
        for text in texts:
            row.add(self._ids(text.prompt), [*self._ids(text.target), self.processor.tokenizer.eos_token_id])
        return row

    def _ids(self, text: str) -> list[int]:
        return self.processor.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def batch(self, rng: Random, pictures: int, per_row: int) -> dict[str, torch.Tensor]:
        """`pictures` new scenes, `per_row` (1 or 2) in each row."""
        scenes = [random_scene(rng) for _ in range(pictures)]
        groups = [scenes[i : i + per_row] for i in range(0, pictures, per_row)]
        rows = [self.row(group, STAGES[self.stage](group, rng)) for group in groups]
        images = self.processor.image_processor([draw(scene) for scene in scenes], return_tensors="pt")
        return {"pixel_values": images["pixel_values"], **pad(rows, self.processor.tokenizer.pad_token_id)}


def pad(rows: list[Row], pad_id: int) -> dict[str, torch.Tensor]:
    """Rows -> ids, positions, labels [B, L] and the mask [B, 1, L, L] (True = may attend)."""
    length = max(len(row.ids) for row in rows)

    def stack(name: str, fill: int) -> torch.Tensor:
        lists = [getattr(row, name) for row in rows]
        return torch.tensor([values + [fill] * (length - len(values)) for values in lists])

    segments = stack("segments", -1)
    same = segments[:, :, None] == segments[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = (same | (segments == 0)[:, None, :]) & causal
    return {
        "input_ids": stack("ids", pad_id),
        "position_ids": stack("positions", 0),
        "labels": stack("labels", IGNORED),
        "attention_mask": mask[:, None],
    }


def loss_of(model: LlavaForConditionalGeneration, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    labels = batch["labels"][:, 1:]
    hidden = model.model(**{name: value for name, value in batch.items() if name != "labels"}).last_hidden_state
    wanted = labels != IGNORED
    return cross_entropy(model.lm_head(hidden[:, :-1][wanted]), labels[wanted])


@torch.no_grad()
def zero_shot(model: LlavaForConditionalGeneration, processor: LlavaProcessor, n: int = 1000) -> dict[str, float]:
    """Share of yes/no statements answered rightly on `n` held-out pictures, by how the false ones were made."""
    rng, packer, scores = Random("held-out"), Packer(processor, "tune"), {"random": [0, 0], "hard": [0, 0]}
    yes, no = (processor.tokenizer(word, add_special_tokens=False).input_ids[0] for word in (" yes", " no"))
    form = STATEMENT_FORMS[0]
    for _ in range(n // 50):
        scenes, rows, truth = [random_scene(rng) for _ in range(50)], [], []
        for scene in scenes:
            other = random_scene(rng)
            while not (random_false := true_fact(other, rng)).is_false_of(scene):
                other = random_scene(rng)
            facts = [true_fact(scene, rng), random_false, true_fact(scene, rng), false_fact(scene, rng)]
            rows.append(packer.row([scene], [Text(_ask(form.format(fact.text())), "") for fact in facts]))
        batch = pad(rows, processor.tokenizer.pad_token_id)
        pixels = processor.image_processor([draw(scene) for scene in scenes], return_tensors="pt")["pixel_values"]
        hidden = model.model(**{k: v for k, v in batch.items() if k != "labels"}, pixel_values=pixels)[0]
        logits = model.lm_head(hidden[:, :-1][batch["labels"][:, 1:] != IGNORED]).view(50, 4, -1)
        said = (logits[..., yes] > logits[..., no]).tolist()
        for a, b, c, d in said:
            truth += [a, not b]
            scores["hard"][0] += c + (not d)
            scores["hard"][1] += 2
        scores["random"][0] += sum(truth)
        scores["random"][1] += len(truth)
    return {name: right / total for name, (right, total) in scores.items()}


def train(model: LlavaForConditionalGeneration, packer: Packer, args: argparse.Namespace) -> None:
    optimiser, shape = make_optimiser(list(model.parameters()), args.lr, args.steps)
    started, average = time.monotonic(), None
    for step in range(args.steps):
        rng = Random(f"{args.seed}/{packer.stage}/{step}")
        batch = packer.batch(rng, args.pictures, per_row=2 if step % 8 == 7 else 1)
        loss = loss_of(model, batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        shape.step()
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        if step % 50 == 0 or step == args.steps - 1:
            print(f"step {step} loss {average:.4f} {time.monotonic() - started:.0f} s", flush=True)
        if packer.stage == "tune" and step % 250 == 249:
            print("zero-shot", zero_shot(model, packer.processor, 200), flush=True)


def cell_labels(scene: Scene) -> list[list[int]]:
    """For each patch the kind, colour and size of the shape in its cell of the canvas; 0 = nothing there."""
    held = {
        shape.place: [values.index(value) + 1 for values, value in zip(PROPERTIES, _properties(shape), strict=True)]
        for shape in scene.shapes
    }
    side = PIXELS // PATCH
    share = side // len(PLACES)  # patches along one side of a cell
    places = [PLACES[row // share][column // share] for row in range(side) for column in range(side)]
    return [held.get(place, [0] * len(PROPERTIES)) for place in places]


def _properties(shape: Shape) -> tuple[str, str, str]:
    return shape.kind, shape.colour, shape.size


def train_eyes(model: LlavaForConditionalGeneration, packer: Packer, args: argparse.Namespace) -> None:
    """Teach the vision tower what stands where, patch by patch, before it meets the language model.

    Real multimodal models begin with a trained tower, too. The heads are thrown away.
    """
    tower = model.model.vision_tower
    heads = torch.nn.ModuleList(torch.nn.Linear(128, len(values) + 1) for values in PROPERTIES)
    optimiser, shape = make_optimiser([*tower.parameters(), *heads.parameters()], args.lr, args.eye_steps)
    for step in range(args.eye_steps):
        rng = Random(f"{args.seed}/eyes/{step}")
        scenes = [random_scene(rng) for _ in range(4 * args.pictures)]
        images = packer.processor.image_processor([draw(scene) for scene in scenes], return_tensors="pt")
        states = tower(images["pixel_values"], output_hidden_states=True).hidden_states[-1]
        labels = torch.tensor([cell_labels(scene) for scene in scenes])
        logits = [head(states).flatten(0, 1) for head in heads]
        loss = sum(cross_entropy(logit, labels[..., i].flatten()) for i, logit in enumerate(logits))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimiser.step()
        shape.step()
        if step % 100 == 0 or step == args.eye_steps - 1:
            there = labels[..., 0].flatten() > 0
            right = [
                float((x.argmax(-1) == labels[..., i].flatten())[there].float().mean()) for i, x in enumerate(logits)
            ]
            print(f"eyes step {step} loss {loss.item():.4f} kind, colour, size right {right}", flush=True)


def make_optimiser(
    parameters: list[torch.nn.Parameter], lr: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW, warmed up for 150 steps and then falling to 0 in a straight line."""
    optimiser = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.05)
    shape = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min((step + 1) / 150, 1.0) * (1 - step / steps))
    return optimiser, shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=tuple(STAGES))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--eye-steps", type=int, default=2000, help="steps of the vision tower alone, before base")
    parser.add_argument("--pictures", type=int, default=32, help="new pictures per step")
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=BUNDLED)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    name = {"base": "mini_base", "tune": "mini"}[args.stage]
    if args.stage == "base":
        processor = make_processor(args.seed)
        model = make_model(processor)
    else:
        processor = LlavaProcessor.from_pretrained(args.out / "mini_base")
        model = LlavaForConditionalGeneration.from_pretrained(args.out / "mini_base", dtype=torch.float32)
    started = time.monotonic()
    if args.stage == "base":
        train_eyes(model, Packer(processor, args.stage), args)
    train(model, Packer(processor, args.stage), args)
    facts = {"stage": args.stage, "steps": args.steps, "pictures": args.pictures, "lr": args.lr, "seed": args.seed}
    facts |= {"seconds": round(time.monotonic() - started), "zero_shot": zero_shot(model, processor)}
    model.half().save_pretrained(args.out / name)
    processor.save_pretrained(args.out / name)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
