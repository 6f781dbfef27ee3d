"""Words of extract.answers: bound to labels by name, however they are ordered; a model worse than chance is stopped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from mllm_probe import load_cache
from mllm_probe.errors import ConfigError
from mllm_probe.records.samples import Decision, Examples
from mllm_probe.results.score_file import load_scores, load_summary
from mllm_probe.scoring.alarms import worse_than_chance
from mllm_probe.tasks.answer_words import answered, bound, check_words
from mllm_probe.tasks.questions import Questions
from tests.support.questions import asked
from tests.support.runs import Run, tiny


def examples(*names: str, kind: str = "") -> Examples:
    some = Decision("d", "s", "t", 0, "g")
    return Examples((), (some,), {}, kind or ("binary" if len(names) == 2 else "classes"), names=names)


@pytest.mark.parametrize("given", [["Yes", "No"], ["No", "Yes"], {"no": "No", "YES": "Yes"}, "{no: No, yes: Yes}"])
def test_the_order_of_words_does_not_matter(given: Any) -> None:
    """The word of label 1 is stored first, as ever."""
    assert bound(given, examples("no", "yes")) == ("Yes", "No")
    assert answered(bound(given, examples("no", "yes")), examples("no", "yes")) == {"no": "No", "yes": "Yes"}


def test_yes_and_no_in_other_words() -> None:
    assert bound(["No", "Yes"], examples("0", "1")) == ("Yes", "No")
    assert bound(["true", "false"], examples("No", "Yes")) == ("true", "false")
    assert bound(["cat", "dog", "fox"], examples("dog", "fox", "cat")) == ("dog", "fox", "cat")
    assert bound({"benign": "A", "malign": "B"}, examples("benign", "malign")) == ("B", "A")
    assert bound(["Yes", "No"], examples(kind="binary")) == ("Yes", "No") and bound(None, examples("a", "b")) == ()


@pytest.mark.parametrize(
    ("given", "names", "message"),
    [
        (["Yes", "No"], ("benign", "malign"), r"name them, as in 'extract.answers={benign: Yes, malign: No}'"),
        (["A", "B"], ("a", "b", "c"), r"its 2 words to the 3 labels \(a, b, c\); name them, as in"),
        (["Yes"], ("no", "yes"), r"extract.answers=\['Yes'\] must hold a word for each label, all different"),
        (["Yes", "yes"], ("no", "yes"), "must hold a word for each label, all different"),
        (["Yes", "No", "Maybe"], ("no", "yes"), "holds 3 words, and there are two labels"),
        ({"yes": "Yes", "nein": "No"}, ("no", "yes"), "names the label 'nein', which does not exist; "),
        ({"a": "A", "b": "B"}, ("a", "b", "c"), "has no word for 1 of 3 labels: c"),
        (5, ("no", "yes"), "must be names with names"),
    ],
)
def test_words_that_stand_for_no_label_are_refused(given: Any, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bound(given, examples(*names))


def test_numbers_have_no_words() -> None:
    with pytest.raises(ConfigError, match="labels are numbers here"):
        check_words(["Yes", "No"], "number")
    with pytest.raises(ConfigError, match="labels are numbers here"):
        bound(["a", "b"], asked(1.5, 2.5, 3.0, task=Questions()))


def test_worse_than_chance_is_one_sentence_with_the_words() -> None:
    said = worse_than_chance(0.02, 0.05, {"no": "Yes", "yes": "No"})
    assert said is not None and "'Yes' for the label no, 'No' for the label yes" in said
    assert worse_than_chance(0.4, 0.5, {}) is None and worse_than_chance(float("nan"), float("nan"), {}) is None


SMALL = (
    "task=entailment",
    "dataset.pictures=120",
    "sweep.draws=50",
    "layers.range=[12,12]",
    "layers.towers=[lm]",
    "controls=none",
    "sweep.seeds=[0]",
)


def test_exchanged_words_change_no_number_and_exchanged_labels_stop_the_run(probe: Run, tmp_path: Path) -> None:
    plain = ("run", "model=mini", "extract.positions=[last]", *SMALL, "data.n=120")
    for name, words in (("one", "[Yes,No]"), ("two", "[No,Yes]"), ("three", "{no: No, yes: Yes}")):
        code, _, err = probe(*plain, f"extract.answers={words}", f"hydra.run.dir={name}")
        assert code == 0, err
        assert load_summary(tmp_path / name / "summary.json")["answers"] == ["Yes", "No"]
    tables = [load_scores(tmp_path / name / "scores.csv").drop(columns="run") for name in ("one", "two", "three")]
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])
    zero = tables[0][(tables[0].control == "zero_shot") & (tables[0].metric == "accuracy")]
    assert zero.value.iloc[0] > 0.8
    code, _, err = probe(*plain, "extract.answers={no: Yes, yes: No}")
    assert code == 1 and "own answers are worse than chance" in err and "'Yes' for the label no" in err
    assert err.count("mllm-probe:") == 1


def test_several_classes_have_a_word_each(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    """The accuracy of the model's own answers is that of the largest of its stored logits."""
    from PIL import Image

    rng, rows = np.random.default_rng(0), ["picture,text,label"]
    for i in range(45):
        shades = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(shades).resize((32, 32), 0).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,Which?,{('red', 'green', 'blue')[i % 3]}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    own = ("task=custom", f"dataset.root={tmp_path}", "dataset.file=t.csv", "extract.answers=[blue,red,green]")
    code, _, err = probe(
        "run",
        *tiny(checkpoint),
        *own,
        "sweep.draws=50",
        "sweep.seeds=[0]",
        "guards=note",
        "layers.stride=4",
        "hydra.run.dir=run",
    )
    assert code == 0, err
    from mllm_probe.results.predictions import load_scored

    scored = load_scored(tmp_path / "run" / "predictions.safetensors")
    assert scored.names == ("blue", "green", "red")
    table = load_scores(tmp_path / "run" / "scores.csv")
    zero = (
        table[(table.control == "zero_shot") & (table.split == "test") & (table.seed == "0")].set_index("metric").value
    )
    cache = load_cache(tmp_path / "run", outputs=tmp_path / "outputs")
    (top,) = [key for key in cache.keys if key.startswith("lm.04@answer")]
    assert top == "lm.04@answer:blue/green/red"
    z, _ = cache.rows(top, scored.samples)
    test, y = np.asarray(scored.test), np.asarray(scored.labels)
    assert z.shape == (45, 3) and zero["accuracy"] == accuracy_score(y[test], z[test].argmax(1))
    assert "yes_rate" not in zero.index and load_summary(tmp_path / "run" / "summary.json")["labels"]["names"] == list(
        scored.names
    )
