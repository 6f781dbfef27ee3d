"""Negatives of entailment: matched, false, as near as asked for; wordings asked of the test pictures only."""

import re
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from random import Random

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from mllm_probe.data.coco import Coco, Selection
from mllm_probe.errors import ConfigError, DataError
from mllm_probe.files.digests import Digests
from mllm_probe.records.samples import Collection, Decision, Examples, Picture
from mllm_probe.tasks.entailment import Entailment
from mllm_probe.tasks.hard_negatives import similar
from mllm_probe.tasks.matching import exchange
from mllm_probe.tasks.splits import TEST, Folds
from mllm_probe.tasks.swap import _pattern, replaced, swap
from tests.support.questions import balance
from tests.support.runs import REAL

FOLDS = Folds(blocks=4)
COCO = REAL / "coco_subset"
NEGATIVES = ("random", "similar", "object_swap")
Claims = list[tuple[Picture, str]]


def statements(examples: Examples) -> dict[str, tuple[Decision, Decision, str, str]]:
    """{pair: the true decision, the false one, the true caption, the false one}."""
    samples = {sample.uid: sample for sample in examples.samples}
    found: dict[str, dict[int, tuple[Decision, str]]] = defaultdict(dict)
    for decision in examples.decisions:
        start, stop = samples[decision.sample].marks["caption"]
        found[str(decision.pair)][int(decision.label)] = (decision, samples[decision.sample].text[start:stop])
    return {pair: (two[1][0], two[0][0], two[1][1], two[0][1]) for pair, two in found.items()}


def closeness(examples: Examples) -> float:
    pairs = statements(examples).values()
    texts = [text for *_, true, false in pairs for text in (true, false)]
    vectors = TfidfVectorizer(token_pattern=r"\w+").fit_transform(texts)
    return float(vectors[::2].multiply(vectors[1::2]).sum() / len(pairs))


def check_swaps(collection: Collection, examples: Examples) -> None:
    """One object went out, one that is in no annotation came in, and within a fold the same ones did both."""
    pictures = {picture.group: picture for picture in collection.pictures}
    moved: dict[int, tuple[Counter, Counter]] = defaultdict(lambda: (Counter(), Counter()))
    for decision, other, true, false in statements(examples).values():
        picture = pictures[decision.group]
        assert other.group == decision.group and picture.categories is not None
        options = [
            (old, new)
            for old in picture.categories
            for new in set(collection.categories) - picture.categories
            if re.sub(rf"(?<![\w-]){old}(?![\w-])", new, bare(true)) == bare(false)
        ]
        ((old, new),) = options
        moved[examples.folds[decision.group]][0][old] += 1
        moved[examples.folds[decision.group]][1][new] += 1
    assert moved and all(out == back for out, back in moved.values())


def bare(text: str) -> str:
    """Lower case without articles, which the swap may fix."""
    return " ".join(word for word in text.lower().split() if word not in ("a", "an"))


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    if not COCO.is_dir():
        pytest.skip(f"{COCO} is absent")
    place = tmp_path_factory.mktemp("coco")
    return Coco(root=str(COCO)).load(place, Selection(), Digests(place / "digests.json"))


@pytest.mark.parametrize("negatives", ["random", "similar"])
@pytest.mark.parametrize("seed", range(3))
def test_texts_and_pictures_are_matched_in_every_split(scenes: Collection, negatives: str, seed: int) -> None:
    examples = Entailment(negatives=negatives, seed=seed).examples(scenes, FOLDS)
    split = FOLDS.splits(examples.folds, seed)
    assert len(examples.decisions) > 100
    for by in ("text", "picture"):
        assert all(labels[0] == labels[1] for labels in balance(examples, split, by).values())


def test_similar_negatives_are_false_and_more_similar(scenes: Collection, entailment: Examples) -> None:
    near = Entailment(negatives="similar").examples(scenes, FOLDS)
    pictures = {picture.digest: picture for picture in scenes.pictures}
    assert all(scenes.contradicts(pictures[d.group], false) for d, _, _, false in statements(near).values())
    assert closeness(near) > closeness(entailment) + 0.1


def test_similar_is_the_best_exchange_there_is() -> None:
    """Against all permutations of six claims."""
    texts = ["a dog runs", "a dog sleeps", "red cars drive", "red bus drives", "a cat sleeps", "cars drive"]
    claims = [(Picture(str(i), Path(), str(i)), text) for i, text in enumerate(texts)]
    vectors = TfidfVectorizer(token_pattern=r"\w+").fit_transform(texts)
    cosine = (vectors @ vectors.T).toarray()

    def total(order: tuple[int, ...]) -> float:
        return sum(cosine[i, j] for i, j in enumerate(order))

    best = max(total(order) for order in permutations(range(6)) if all(i != j for i, j in enumerate(order)))
    found = similar(claims, lambda picture, text: True, Random(0))
    assert total(tuple(texts.index(claim[1]) for claim in found if claim)) == pytest.approx(best)


def sets_of_objects(n: int) -> Claims:
    """Claims that read most like those about the same objects."""
    objects = [frozenset({"dog"}), frozenset({"cat"}), frozenset({"dog", "cat"}), frozenset[str](), None]
    return [
        (Picture(str(i), Path(), str(i), categories=objects[i % 5]), f"number{i} {'both' if i % 5 else 'one'} {i % 5}")
        for i in range(n)
    ]


@pytest.mark.parametrize("piece", [1000, 7])
def test_the_same_objects_are_never_exchanged(piece: int) -> None:
    claims = sets_of_objects(60)
    found = similar(claims, lambda picture, text: True, Random(0), piece)
    owner = {text: picture for picture, text in claims}
    assert all(found), "an exchange of all exists, in pieces, too"
    assert Counter(claim[1] for claim in found if claim) == Counter(list(owner))
    for claim in found:
        giver = owner[claim[1]] if claim else claims[0][0]
        assert claim and giver != claim[0]
        assert giver.categories is None or giver.categories != claim[0].categories


def test_near_duplicates_lend_each_other_nothing() -> None:
    claims = [(Picture(str(i), Path(), str(i), group=str(i // 4)), f"caption {i}") for i in range(24)]
    owner = {text: picture for picture, text in claims}
    for negatives in (exchange, similar):
        found = negatives(claims, lambda picture, text: True, Random(1))
        assert all(claim and owner[claim[1]].group != claim[0].group for claim in found)


def test_object_swap_is_matched_and_false(scenes: Collection) -> None:
    examples = Entailment(negatives="object_swap", captions_per_picture=5).examples(scenes, FOLDS)
    assert len(examples.decisions) > 200
    check_swaps(scenes, examples)


def test_claims_without_a_mention_are_not_asked() -> None:
    def about(i: int, text: str, categories: frozenset[str] | None) -> tuple[Picture, str]:
        return Picture(str(i), Path(), str(i), (text,), categories), text

    claims = [about(i, f"a {name} on grass", frozenset({name})) for i, name in enumerate(["dog", "cat", "cow"] * 2)]
    silent = [
        about(6, "dogs on grass", frozenset({"dog"})),
        about(7, "a dog on grass", None),
        about(8, "a dog on grass", frozenset({"cat"})),
        about(9, "a dog-shaped cloud", frozenset({"dog"})),
    ]
    found = swap(claims + silent, ("dog", "cat", "cow"), Random(0))
    assert all(found[:6]) and found[6:] == [None] * 4


def test_an_object_that_a_caption_names_is_not_put_in() -> None:
    """The cat nobody annotated is in the picture all the same."""
    dog = [Picture(str(i), Path(), str(i), ("a dog", "a cat"), frozenset({"dog"})) for i in range(3)]
    cat = [Picture(str(i), Path(), str(i), ("a cat",), frozenset({"cat"})) for i in range(3, 6)]
    found = swap([(p, p.captions[0]) for p in dog + cat], ("cat", "dog"), Random(0))
    assert found == [None] * 6


@pytest.mark.parametrize(
    ("text", "old", "new", "wanted"),
    [
        ("a dog and a dog", "dog", "elephant", "an elephant and an elephant"),
        ("An apple by a hot dog", "apple", "dog", "A dog by a hot dog"),
        ("a hot dog, a dog", "dog", "cat", "a hot dog, a cat"),
        ("a hot dog, a dog", "hot dog", "oven", "an oven, a dog"),
        ("Dog's bowl of two dogs", "dog", "hot dog", "Hot dog's bowl of two dogs"),
        ("one big dog", "dog", "oven", "one big oven"),
        ("a dog house for a dog", "dog", "cat", "a dog house for a cat"),
    ],
)
def test_articles_and_longer_names(text: str, old: str, new: str, wanted: str) -> None:
    assert replaced(text, old, new, _pattern(["dog", "hot dog", "dog house", "oven", "apple"])) == wanted


def test_no_objects_is_one_sentence(scenes: Collection) -> None:
    task = Entailment(negatives="object_swap")
    with pytest.raises(DataError, match=r"no instance annotations; task\.negatives=object_swap needs instances\.json"):
        task.examples(replace(scenes, categories=()), FOLDS)
    mute = tuple(replace(picture, captions=("nothing named",)) for picture in scenes.pictures)
    with pytest.raises(DataError, match="no caption names an annotated object"):
        task.examples(replace(scenes, pictures=mute), FOLDS)
    with pytest.raises(DataError, match="hold no word; task.negatives=similar"):
        similar([(scenes.pictures[0], "!"), (scenes.pictures[1], "?")], scenes.contradicts, Random(0))


TEMPLATES = {"plain": "{caption}. Right?", "other": "Is it so: {caption}?"}


def test_test_templates_are_asked_of_test_pictures_only(scenes: Collection) -> None:
    own = Entailment(template="plain", templates=TEMPLATES).examples(scenes, FOLDS)
    task = Entailment(template="plain", templates=TEMPLATES, test_templates=["other", "plain", "So {caption}?"])
    assert task.template == "{caption}. Right?"
    examples = task.examples(scenes, FOLDS)
    assert len({d.uid for d in examples.decisions}) == len(examples.decisions)
    assert tuple(d for d in examples.decisions if not d.template) == own.decisions
    texts = {sample.uid: sample.text for sample in examples.samples}
    tested = [d for d in own.decisions if examples.folds[d.group] == TEST]
    for wording, start in (("Is it so: {caption}?", "Is it so: "), ("So {caption}?", "So ")):
        again = [d for d in examples.decisions if d.template == wording]
        assert tested and [replace(d, uid="", sample="", template="") for d in again] == [
            replace(d, uid="", sample="") for d in tested
        ]
        assert all(texts[d.sample].startswith(start) for d in again)
    split = FOLDS.splits(examples.folds, 0)
    for by in ("text", "picture"):
        assert all(labels[0] == labels[1] for labels in balance(examples, split, by).values())


def test_wordings_and_numbers_are_checked() -> None:
    with pytest.raises(ConfigError, match="task.template=plan is no wording .* did you mean 'plain'"):
        Entailment(template="plan", templates=TEMPLATES)
    with pytest.raises(ConfigError, match="task.test_templates=plan is no wording"):
        Entailment(templates=TEMPLATES, test_templates=["plan"])
    with pytest.raises(ConfigError, match="must hold {caption} exactly once"):
        Entailment(template="{thing}", templates=TEMPLATES)
    with pytest.raises(ConfigError, match="does not go with task.answers"):
        Entailment(answers=["Yes", "No"], templates=TEMPLATES, test_templates=["other"])
    for number in (0, 6):
        with pytest.raises(ConfigError, match=f"task.captions_per_picture={number} must be 1 to 5"):
            Entailment(captions_per_picture=number)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_a_picture_without_captions_stops_or_is_named(scenes: Collection, negatives: str) -> None:
    bare = replace(scenes.pictures[3], captions=())
    held = replace(scenes, pictures=(*scenes.pictures[:3], bare, *scenes.pictures[4:]))
    sentence = rf"picture {bare.id} \({bare.path.name}\) has no caption; entailment needs one each"
    with pytest.raises(DataError, match=sentence + ", or leave .* data.on_bad_row=skip"):
        Entailment(negatives=negatives).examples(held, FOLDS)
    examples = Entailment(negatives=negatives, on_bad_row="skip").examples(held, FOLDS)
    assert [said.split(" (")[0] for said in examples.skipped] == [f"picture {bare.id}"]
    assert examples.decisions and bare.group not in {d.group for d in examples.decisions}


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_a_fold_without_captions_is_left_out(scenes: Collection, negatives: str) -> None:
    folds = FOLDS.assign(scenes.pictures)
    held = tuple(replace(p, captions=() if folds[p.group] == 2 else p.captions) for p in scenes.pictures)
    task = Entailment(negatives=negatives, on_bad_row="skip")
    examples = task.examples(replace(scenes, pictures=held), FOLDS)
    assert {folds[d.group] for d in examples.decisions} == set(folds.values()) - {2}


def test_the_shipped_wordings_are_wordings() -> None:
    from mllm_probe.config.build import build
    from mllm_probe.records.protocols import Task
    from tests.support.configs import composed

    task = composed("task=entailment").task
    assert len(task["templates"]) >= 4
    for name, wording in task["templates"].items():
        built = build({**task, "template": name, "test_templates": list(task["templates"])}, Task)
        assert built.template == wording and len(built.test_templates) == len(task["templates"]) - 1
    assert build(task, Task).template == Entailment().template


@pytest.mark.realdata
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_real_captions(coco: Collection, negatives: str) -> None:
    folds = Folds()
    examples = Entailment(negatives=negatives, captions_per_picture=5).examples(coco, folds)
    pictures = {picture.group: picture for picture in coco.pictures}
    bare = {picture.group for picture in coco.pictures if not picture.categories}
    asked = {decision.group for decision in examples.decisions}
    if negatives == "object_swap":
        check_swaps(coco, examples)
        assert len(bare) == 2 and not bare & asked and len(examples.decisions) > 300
        return
    assert bare < asked and len(examples.decisions) == 2 * 940
    for seed in range(3):
        cells = balance(examples, folds.splits(examples.folds, seed), "text")
        assert all(labels[0] == labels[1] for labels in cells.values())
    if negatives == "similar":
        owners = defaultdict(set)
        for picture in coco.pictures:
            for text in picture.captions:
                owners[text.strip().rstrip(".")].add(picture.group)
        for decision, _, _, false in statements(examples).values():
            own = pictures[decision.group].categories
            assert any(g != decision.group and (own is None or pictures[g].categories != own) for g in owners[false])
        plain = Entailment(captions_per_picture=5).examples(coco, folds)
        assert closeness(examples) > closeness(plain) + 0.1
