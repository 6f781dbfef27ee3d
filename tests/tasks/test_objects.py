"""What a prompt names and what is asked: balanced in every split, and being listed says nothing of the label."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pytest

from mllm_probe.data.coco import Selection
from mllm_probe.data.scenes import Scenes
from mllm_probe.errors import ConfigError, DataError
from mllm_probe.files.digests import Digests
from mllm_probe.records.samples import Collection, Decision, Examples
from mllm_probe.tasks.candidates import Company
from mllm_probe.tasks.objects import Objects
from mllm_probe.tasks.rare import without_unlearnt
from mllm_probe.tasks.splits import SPLITS, Folds

FOLDS = Folds(blocks=4)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    outputs = tmp_path_factory.mktemp("many")
    return Scenes(pictures=200).load(outputs, Selection(), Digests(outputs / "digests.json"))


def cells(examples: Examples, *names: str) -> dict[tuple[object, ...], Counter[float]]:
    """{(fold, strata...): labels} of what is scored."""
    found: dict[tuple[object, ...], Counter[float]] = defaultdict(Counter)
    for d in examples.decisions:
        if not d.given:
            found[examples.folds[d.group], *(d.strata[name] for name in names)][d.label] += 1
    return found


@pytest.mark.parametrize("prompt", ["single", "list", "none", "present_only"])
@pytest.mark.parametrize("absent", ["random", "popular", "adversarial"])
def test_categories_say_nothing_of_their_label(many: Collection, prompt: str, absent: str) -> None:
    examples = Objects(prompt=prompt, absent=absent, per_category=None).examples(many, FOLDS)
    named = ("named",) if prompt == "list" else ()
    assert all(labels[0] == labels[1] for labels in cells(examples, "category", *named).values())
    truth = {picture.digest: picture.categories for picture in many.pictures}
    assert all((d.strata["category"] in truth[d.group]) == (d.label == 1) for d in examples.decisions)


def test_exchanged_objects_say_nothing_of_their_picture_either(many: Collection) -> None:
    for most in (4, None):
        examples = Objects(per_category=most).examples(many, FOLDS)
        assert all(labels[0] == labels[1] for labels in cells(examples, "picture").values())
        assert len({(d.group, d.head) for d in examples.decisions}) == len(examples.decisions)
    present = sum(len(picture.categories or ()) for picture in many.pictures)
    assert len(examples.decisions) > 1.9 * present, "nearly every present object is asked about"


@pytest.mark.parametrize("prompt", ["single", "list", "none", "present_only"])
@pytest.mark.parametrize("absent", ["random", "popular", "adversarial"])
def test_balance_by_picture_asks_each_about_as_many_absent_ones(many: Collection, prompt: str, absent: str) -> None:
    examples = Objects(prompt=prompt, absent=absent, balance="picture").examples(many, FOLDS)
    named = ("named",) if prompt == "list" else ()
    found = cells(examples, "picture", *named)
    assert all(labels[0] == labels[1] <= 3 for labels in found.values())
    by_category = cells(examples, "category")
    assert any(labels[0] != labels[1] for labels in by_category.values())


def test_absent_objects_of_a_picture_are_drawn_as_pope_draws_them(many: Collection) -> None:
    company, pictures = Company(many.pictures), {p.digest: p for p in many.pictures}
    for absent, worth in (
        ("popular", lambda picture, name: company.count[name]),
        ("adversarial", lambda picture, name: company.expects(picture, name)),
    ):
        asked: dict[str, set[str]] = defaultdict(set)
        for d in Objects(absent=absent, balance="picture").examples(many, FOLDS).decisions:
            asked[d.group] |= {d.strata["category"]} if d.label == 0 else set()
        for digest, names in asked.items():
            picture = pictures[digest]
            left = set(many.categories) - names - (picture.categories or frozenset())
            assert min(worth(picture, name) for name in names) >= max(worth(picture, name) for name in left)


@pytest.mark.parametrize("balance", ["category", "picture"])
@pytest.mark.parametrize("prompt", ["list", "present_only"])
def test_lists_hold_their_names_where_the_marks_say(many: Collection, prompt: str, balance: str) -> None:
    examples = Objects(prompt=prompt, balance=balance, per_category=None).examples(many, FOLDS)
    by_sample: dict[str, list[Decision]] = defaultdict(list)
    for decision in examples.decisions:
        by_sample[decision.sample].append(decision)
    for sample in examples.samples:
        names = {mark.partition(":")[2]: sample.text[slice(*span)] for mark, span in sample.marks.items()}
        assert all(name == said for name, said in names.items())
        named = {d.strata["category"] for d in by_sample[sample.uid] if d.strata["named"] == "yes"}
        assert named == set(names) and all(
            d.mark == f"object:{d.head}" for d in by_sample[sample.uid] if d.head in named
        )
        assert all(d.mark is None for d in by_sample[sample.uid] if d.head not in named)
        assert names or prompt == "present_only", "every picture has a name to be read at"
    shown = Counter(d.strata["named"] for d in examples.decisions)
    assert min(shown.values()) > 50


def test_a_name_gives_its_label_away_where_only_present_ones_are_listed(many: Collection) -> None:
    decisions = Objects(prompt="present_only", per_category=None).examples(many, FOLDS).decisions
    given = [d for d in decisions if d.given]
    assert given and all(d.label == 1 and d.strata["named"] == "yes" for d in given)
    assert all(d.strata["named"] == "no" for d in decisions if not d.given)
    assert not any(d.given for d in Objects(prompt="list").examples(many, FOLDS).decisions)


def test_nothing_is_listed_and_one_prompt_serves_all(many: Collection) -> None:
    examples = Objects(prompt="none").examples(many, FOLDS)
    assert {sample.text for sample in examples.samples} == {"This image contains the following types of objects:"}
    assert len(examples.samples) == len({d.group for d in examples.decisions}) < len(examples.decisions)


def test_adversarial_pictures_keep_company_with_what_they_lack(many: Collection) -> None:
    company, pictures = Company(many.pictures), {p.digest: p for p in many.pictures}

    def expected(absent: str) -> float:
        asked = Objects(absent=absent).examples(many, FOLDS).decisions
        found = [company.expects(pictures[d.group], d.strata["category"]) for d in asked if d.label == 0]
        return sum(found) / len(found)

    assert expected("adversarial") > 1.5 * expected("random")


def test_popular_asks_about_the_more_frequent_half(many: Collection) -> None:
    count = Company(many.pictures).count
    asked = {d.strata["category"] for d in Objects(absent="popular").examples(many, FOLDS).decisions}
    left = set(many.categories) - asked
    assert asked and min(count[name] for name in asked) >= max(count[name] for name in left)


def test_wrong_settings_are_one_sentence(many: Collection) -> None:
    for settings, said in (
        ({"prompt": "lst"}, "task.prompt=lst is unknown; did you mean 'list'"),
        ({"absent": "rare"}, "task.absent=rare is unknown"),
        ({"balance": "both"}, "task.balance=both is unknown; choose one of: category, picture"),
        ({"per_picture": 0}, "task.per_picture=0 must be 1 or more"),
        ({"per_picture": "auto"}, "task.per_picture=auto must be 1 or more, or null for all"),
        ({"per_category": "many"}, "task.per_category=many must be auto, 1 or more, or null for all"),
        ({"rare": "refuse"}, "task.rare=refuse is unknown; choose one of: drop, keep"),
        ({"listed": 1.0}, "task.listed=1.0 must be between 0 and 1"),
        ({"prompt": "list", "template": "Is there {a_category}?"}, r"must hold \{categories\} exactly once"),
    ):
        with pytest.raises(ConfigError, match=said):
            Objects(**settings)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"task.categories=cat is not in dataset scenes; choose one of: blue circle"):
        Objects(categories=["cat"]).examples(many, FOLDS)


def test_the_number_of_decisions_follows_the_pictures(many: Collection) -> None:
    """Two present ones a picture over folds and categories, 4 at least: that of the default run, 600 scenes, is 4."""
    task = Objects()
    assert [task._most(replace(many, pictures=many.pictures * n), 11) for n in (1, 3, 12)] == [4, 4, 15]
    assert Objects(categories=many.categories[:3])._most(many, 11) == 12
    assert [Objects(per_category=most)._most(many, 11) for most in (2, None)] == [2, None]


def taught(decisions: Sequence[Decision], split: dict[str, str]) -> set[str | None]:
    """Written as one reads it."""
    found = set()
    for head in {d.head for d in decisions}:
        labels = {name: {d.label for d in decisions if d.head == head and split[d.group] == name} for name in SPLITS}
        if labels["train"] == {0, 1} and labels["val"]:
            found.add(head)
    return found


def test_categories_that_cannot_be_learnt_are_left_out(many: Collection) -> None:
    """Where a picture state has an output for each category; where one output serves all, none is left out."""
    few = replace(many, pictures=many.pictures[:60])
    examples = Objects().examples(few, FOLDS)
    splits = [FOLDS.splits(examples.folds, seed) for seed in (0, 1)]
    live = set.intersection(*(taught(examples.decisions, split) for split in splits))
    kept = without_unlearnt(examples, FOLDS, (0, 1), ("last", "mean_image"))
    assert 1 < len(live) < len({d.head for d in examples.decisions})
    assert kept.decisions == tuple(d for d in examples.decisions if d.head in live)
    assert {sample.uid for sample in kept.samples} == {d.sample for d in kept.decisions}
    assert set(kept.unlearnt) == {d.head for d in examples.decisions} - live
    assert all(labels[0] == labels[1] for labels in cells(kept, "category").values())
    assert f"{len(kept.unlearnt)} of {len(kept.unlearnt) + len(live)} categories are left out" in str(
        kept.unlearnt_said
    )
    assert without_unlearnt(examples, FOLDS, (0, 1), ("last", "mark:object")) is examples
    assert without_unlearnt(kept, FOLDS, (0, 1), ("mean_image",)) is kept and examples.unlearnt_said is None


def test_where_too_few_could_be_learnt_all_stay(many: Collection) -> None:
    examples = Objects().examples(replace(many, pictures=many.pictures[:12]), FOLDS)
    assert without_unlearnt(examples, FOLDS, (0, 1, 2), ("mean_image",)) is examples


def test_none_is_left_out_where_each_name_of_a_list_is_read_at_its_own_place(many: Collection) -> None:
    """One output then serves all, though many decisions are about one prompt."""
    examples = Objects(prompt="list").examples(replace(many, pictures=many.pictures[:60]), FOLDS)
    assert len(examples.decisions) > len(examples.samples)
    assert without_unlearnt(examples, FOLDS, (0, 1), ("mark:object",)) is examples
    assert without_unlearnt(examples, FOLDS, (0, 1), ("mark:object", "last")).unlearnt


def test_rare_ones_are_kept_where_pictures_are_balanced() -> None:
    assert (Objects().rare, Objects(balance="picture").rare) == ("drop", "keep")
    assert Objects(balance="picture", rare="drop").rare == "drop"
