"""Train the bundled encoders for the labels of Sugar on mini, from scratch on drawn scenes.

    python scripts/train_mini_encoders.py            # all three, then what they are worth on held-out scenes
    python scripts/train_mini_encoders.py --only joint

image  a small DINOv2: its class token learns which categories a picture shows
text   a small BERT: its class token learns which things, relation and number a caption names
joint  a small CLIP: contrastive, captions against pictures; a caption that happens to be true of another picture is no
       negative of it, and each picture has a caption that is false by one change

The real ones learn without labels from millions of pictures, which nobody can afford here; these know their labels.
As with mini, the eyes also learn what stands in each patch, and the heads are thrown away. Every step draws new
pictures from seeds of its own, which no data set uses. Runs on one CPU thread; the checkpoints go to
mllm_probe/bundled.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import torch
from mini_model import PATCH, PIXELS
from mini_steps import Stepper
from scipy.stats import spearmanr
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize
from train_mini import BUNDLED, PROPERTIES, cell_labels
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip import CLIPImageProcessorPil

from mllm_probe.data.drawing import COLOURS, KINDS, PLACES, SIZES, USUAL_SHAPES, Scene, draw, random_scene
from mllm_probe.data.facts import NUMBERS, RELATIONS, Fact, Thing, false_fact, true_fact

WIDTH, BLOCKS, HEADS = 128, 4, 4
TEXT_WIDTH, TEXT_BLOCKS, TOKENS = 64, 2, 64
CATEGORIES = [f"{colour} {kind}" for kind in KINDS for colour in COLOURS]
CELLS = [place for row in PLACES for place in row]
WORDS = [*CATEGORIES, *COLOURS, *KINDS, *SIZES, *CELLS, *RELATIONS, *NUMBERS[: USUAL_SHAPES + 1]]
STEPS = {"image": 600, "text": 500, "joint": 700}
SQUARE = {"size": {"shortest_edge": PIXELS}, "crop_size": {"height": PIXELS, "width": PIXELS}}
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """WordPiece with all letters, so that any caption can be written; the words of scenes are one token each."""
    rng = Random(f"{seed}/encoders/tokenizer")
    corpus = [true_fact(random_scene(rng), rng).text() for _ in range(5000)] + [
        "abcdefghijklmnopqrstuvwxyz0123456789,.?!'"
    ]
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.train_from_iterator(
        corpus, trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIALS, show_progress=False)
    )
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIALS, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, model_max_length=TOKENS, bos_token="[CLS]", eos_token="[SEP]", **names
    )


def make_image() -> Dinov2Model:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS, "mlp_ratio": 2}
    return Dinov2Model(Dinov2Config(**sizes, image_size=PIXELS, patch_size=PATCH))


def make_text(vocabulary: int) -> BertModel:
    return BertModel(BertConfig(vocab_size=vocabulary, type_vocab_size=1, max_position_embeddings=TOKENS, **_text()))


def make_joint(vocabulary: int) -> CLIPModel:
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    text = {**_text(), **ids, "vocab_size": vocabulary, "max_position_embeddings": TOKENS}
    vision = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": BLOCKS}
    vision |= {"num_attention_heads": HEADS, "image_size": PIXELS, "patch_size": PATCH}
    return CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=TEXT_WIDTH))


def _text() -> dict[str, int]:
    sizes = {"hidden_size": TEXT_WIDTH, "num_hidden_layers": TEXT_BLOCKS, "num_attention_heads": HEADS}
    return {**sizes, "intermediate_size": 2 * TEXT_WIDTH}


def pixels(processor: BitImageProcessorPil | CLIPImageProcessorPil, scenes: Sequence[Scene]) -> Tensor:
    return processor([draw(scene) for scene in scenes], return_tensors="pt")["pixel_values"]


def shown(scene: Scene) -> set[str]:
    """The categories in a scene, as the data set names them."""
    return {f"{shape.colour} {shape.kind}" for shape in scene.shapes}


def said(fact: Fact) -> set[str]:
    """What a caption names, from WORDS."""
    named = {value for thing in fact.things for value in vars(thing).values() if value}
    named |= {f"{thing.colour} {thing.kind}" for thing in fact.things if thing.colour and thing.kind}
    return named | ({fact.relation} if fact.relation else set()) | ({NUMBERS[fact.number]} if fact.number else set())


def multi_hot(sets: Sequence[set[str]], names: Sequence[str]) -> Tensor:
    return torch.tensor([[float(name in each) for name in names] for each in sets])


class PatchHeads(torch.nn.Module):
    """What stands in the cell of each patch, from its state; only to teach the eyes."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList(torch.nn.Linear(WIDTH, len(values) + 1) for values in PROPERTIES.values())

    def forward(self, patches: Tensor, scenes: Sequence[Scene]) -> Tensor:
        """Patch states [B, P, D] -> cross-entropy in nats, the sum over kind, colour and size."""
        labels = torch.tensor([cell_labels(scene) for scene in scenes]).flatten(0, 1)
        return sum(cross_entropy(head(patches.flatten(0, 1)), labels[:, i]) for i, head in enumerate(self.heads))  # type: ignore[return-value]


def train(
    name: str,
    model: PreTrainedModel,
    heads: torch.nn.Module,
    loss: Callable[[Random], Tensor],
    args: argparse.Namespace,
) -> float:
    """Returns the seconds of CPU time it took."""
    steps = args.steps or STEPS[name]
    stepper, started, average = Stepper(model, args.lr, steps, heads), time.process_time(), None
    for step in range(steps):
        found = loss(Random(f"{args.seed}/encoders/{name}/{step}"))
        stepper.step(found)
        average = found.item() if average is None else 0.98 * average + 0.02 * found.item()
        if step % 100 == 0 or step == steps - 1:
            print(f"{name} step {step} loss {average:.4f} {time.process_time() - started:.0f} s", flush=True)
    return time.process_time() - started


def train_image(args: argparse.Namespace) -> dict[str, float]:
    model, processor = make_image(), BitImageProcessorPil(**SQUARE)
    heads = torch.nn.ModuleList([PatchHeads(), torch.nn.Linear(WIDTH, len(CATEGORIES))])

    def loss(rng: Random) -> Tensor:
        scenes = [random_scene(rng) for _ in range(args.pictures)]
        states = model(pixels(processor, scenes)).last_hidden_state
        wanted = multi_hot([shown(scene) for scene in scenes], CATEGORIES)
        whole = binary_cross_entropy_with_logits(heads[1](states[:, 0]), wanted) * len(CATEGORIES)
        return heads[0](states[:, 1:], scenes) + whole

    seconds = train("image", model, heads, loss, args)
    save(args.out / "mini_image", model, processor)
    scenes = held_out()
    with torch.no_grad():
        vectors = model(pixels(processor, scenes)).last_hidden_state[:, 0]
    return {"seconds": seconds, **neighbours(vectors, multi_hot([shown(scene) for scene in scenes], CATEGORIES))}


def train_text(args: argparse.Namespace) -> dict[str, float]:
    tokenizer = make_tokenizer(args.seed)
    model, head = make_text(len(tokenizer)), torch.nn.Linear(TEXT_WIDTH, len(WORDS))

    def states(facts: Sequence[Fact]) -> Tensor:
        inputs = tokenizer([fact.text() for fact in facts], padding=True, return_tensors="pt")
        return model(**inputs).last_hidden_state[:, 0]

    def loss(rng: Random) -> Tensor:
        facts = [true_fact(random_scene(rng), rng) for _ in range(2 * args.pictures)]
        wanted = multi_hot([said(fact) for fact in facts], WORDS)
        return binary_cross_entropy_with_logits(head(states(facts)), wanted) * len(WORDS)

    seconds = train("text", model, head, loss, args)
    save(args.out / "mini_text", model, tokenizer)
    rng = Random("held-out/captions")
    facts = list({(fact := true_fact(scene, rng)).text(): fact for scene in held_out()}.values())
    with torch.no_grad():
        vectors = states(facts)
    return {"seconds": seconds, **neighbours(vectors, multi_hot([said(fact) for fact in facts], WORDS))}


def train_joint(args: argparse.Namespace) -> dict[str, float]:
    processor, tokenizer = CLIPImageProcessorPil(**SQUARE), make_tokenizer(args.seed)
    model, heads = make_joint(len(tokenizer)), PatchHeads()

    def told(facts: Sequence[Fact]) -> Tensor:
        texts = [fact.text() for fact in facts]
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        return normalize(model.get_text_features(**inputs).pooler_output, dim=1)

    def loss(rng: Random) -> Tensor:
        scenes = [random_scene(rng) for _ in range(args.pictures)]
        facts = [fact for scene in scenes for fact in (listed(scene, rng), *(true_fact(scene, rng) for _ in range(3)))]
        wrong = [false_fact(scene, rng) for scene in scenes]
        seen = model.vision_model(pixel_values=pixels(processor, scenes))
        images = normalize(model.visual_projection(seen.pooler_output), dim=1)
        logits = images @ told([*facts, *wrong]).T * model.logit_scale.exp().clamp(max=100)
        true = torch.tensor([[not fact.is_false_of(scene) for fact in (*facts, *wrong)] for scene in scenes])
        return contrast(logits, true, len(facts)) + heads(seen.last_hidden_state[:, 1:], scenes) / 2

    seconds = train("joint", model, heads, loss, args)
    save(args.out / "mini_joint", model, processor, tokenizer)
    model.eval()
    rng, scenes = Random("held-out/captions"), held_out()
    with torch.no_grad():
        images = normalize(model.get_image_features(pixels(processor, scenes)).pooler_output, dim=1)
        lists, true, wrong = (told([make(scene, rng) for scene in scenes]) for make in (listed, true_fact, false_fact))
    right = (images * true).sum(dim=1) > (images * wrong).sum(dim=1)
    return {
        "seconds": seconds,
        "pictures": len(scenes),
        "R@1 list -> picture": recall(lists @ images.T),
        "R@1 picture -> list": recall(images @ lists.T),
        "R@1 caption -> picture": recall(true @ images.T),
        "true before false by one change": right.float().mean().item(),
    }


def contrast(logits: Tensor, true: Tensor, captions: int) -> Tensor:
    """Pictures against captions [B, 4 B] and false captions [B, 5 B] in all; `true` says which hold of which.

    Of the candidates a row has its own and those that are false of it: what is true by chance is left out.
    """
    rows, per = len(logits), captions // len(logits)
    own = torch.arange(captions) // per  # the picture of each caption
    of_caption = logits[:, :captions].T
    others = true[:, :captions].T & (torch.arange(rows) != own[:, None])
    by_caption = cross_entropy(of_caption.masked_fill(others, -torch.inf), own)
    negatives = torch.logsumexp(logits.masked_fill(true, -torch.inf), dim=1)[own]
    positive = of_caption[torch.arange(captions), own]
    by_picture = (torch.logaddexp(positive, negatives) - positive).mean()
    return (by_caption + by_picture) / 2


def listed(scene: Scene, rng: Random) -> Fact:
    """All that stands in a scene, in any order."""
    return Fact(tuple(Thing(shape.kind, shape.colour) for shape in rng.sample(scene.shapes, len(scene.shapes))))


def held_out(count: int = 500) -> list[Scene]:
    rng = Random("held-out/encoders")
    return [random_scene(rng) for _ in range(count)]


def recall(scores: Tensor) -> float:
    """How often a row's own column is the highest."""
    return (scores.argmax(dim=1) == torch.arange(len(scores))).float().mean().item()


def neighbours(vectors: Tensor, names: Tensor) -> dict[str, float]:
    """How cosines go with shared names: Spearman's rank correlation with their Jaccard index over all pairs, and the
    Jaccard index of nearest neighbours against that of any two."""
    cosines = normalize(vectors, dim=1) @ normalize(vectors, dim=1).T
    shared = names @ names.T
    jaccard = shared / (names.sum(dim=1)[:, None] + names.sum(dim=1) - shared).clamp(min=1)
    upper = torch.triu_indices(len(names), len(names), 1)
    nearest = cosines.fill_diagonal_(-2).argmax(dim=1)
    pairs = {"nearest": jaccard[torch.arange(len(names)), nearest], "any": jaccard[*upper]}
    return {
        "held out": len(names),
        "Spearman": float(spearmanr(cosines[*upper], jaccard[*upper]).statistic),
        **{f"Jaccard of {name}": found.mean().item() for name, found in pairs.items()},
        **{f"{name} shares one": (found > 0).float().mean().item() for name, found in pairs.items()},
    }


def save(folder: Path, model: PreTrainedModel, *readers: object) -> None:
    model.half().save_pretrained(folder)
    model.float()
    for reader in readers:
        reader.save_pretrained(folder)  # type: ignore[attr-defined]


TRAINERS = {"image": train_image, "text": train_text, "joint": train_joint}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(TRAINERS))
    parser.add_argument("--steps", type=int, help=f"of each; by default {STEPS}")
    parser.add_argument("--pictures", type=int, default=64, help="new pictures per step")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=BUNDLED)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in [args.only] if args.only else list(TRAINERS):
        torch.manual_seed(args.seed)
        print(json.dumps({name: {key: round(value, 3) for key, value in TRAINERS[name](args).items()}}), flush=True)


if __name__ == "__main__":
    main()
