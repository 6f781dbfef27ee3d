"""A constant planted at a known token is read at the named position, and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from mllm_probe.errors import DataError, ModelError, SpanError
from mllm_probe.extraction.taps import read_states
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.models.prompts import prompt
from mllm_probe.records.samples import Collection, Sample
from mllm_probe.records.sites import Key
from tests.support.checkpoints import blueprint_of

PLANTED = 1234.5
TEXT = "Is there a zebra in this image? Yes or no"
MARK = {"object": (TEXT.index("zebra"), TEXT.index("zebra") + 5)}


@pytest.fixture(scope="module")
def zebra(scenes: Collection) -> Sample:
    return Sample.of(scenes.pictures[:1], TEXT, MARK)


@contextmanager
def planted(model: HFModel, row: int, token: int) -> Iterator[None]:
    """Overwrite one token's state behind block 2 with a constant; the taps register later and see it."""

    def plant(_module: torch.nn.Module, _args: tuple, out: torch.Tensor) -> torch.Tensor:
        changed = out.clone()
        changed[row, token] = PLANTED
        return changed

    handle = model._model.model.language_model.layers[1].register_forward_hook(plant)
    try:
        yield
    finally:
        handle.remove()


def known_tokens(model: HFModel, sample: Sample, row: int, batch: list[Sample]) -> dict[str, int]:
    """Where the words are, found by decoding ever longer stretches of the ids: no offsets, no spans."""
    inputs = model._blueprint.process(batch)
    ids, real = inputs["input_ids"][row].tolist(), inputs["attention_mask"][row].nonzero()[:, 0].tolist()
    tokenizer = model._blueprint.processor.tokenizer

    def ends(words: str) -> list[int]:
        """Tokens up to which the prompt reads so: the word's last one and, if it is its own, the blank behind it."""
        return [i for i in real if tokenizer.decode(ids[real[0] : i + 1]).rstrip().endswith(words)]

    return {
        "last": real[-1],
        "last_image": max(i for i in real if ids[i] == 3),
        "mark:object": ends("zebra")[0],
        "before:object": ends(" there a")[-1],
    }


def check_planted(model: HFModel, sample: Sample, other: Sample, position: str) -> None:
    for batch in ([sample], [sample, other], [other, sample]):
        row = batch.index(sample)
        token = known_tokens(model, sample, row, batch)[position]
        key = Key.parse(f"lm.02@{position}")
        with planted(model, row, token):
            got = read_states(model, model.collate(batch, [key]), [key], torch.float32).values[key]
        assert bool((got[row] == PLANTED).all())
        with planted(model, row, token - 1):
            got = read_states(model, model.collate(batch, [key]), [key], torch.float32).values[key]
        assert not bool((got[row] == PLANTED).any())


POSITIONS = ["last", "last_image", "mark:object", "before:object"]


@pytest.fixture(scope="module")
def other(scenes: Collection) -> Sample:
    return Sample.of(scenes.pictures[1:2], TEXT + " in many, many more words than the first", MARK)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("position", POSITIONS)
def test_the_planted_token_is_read(checkpoint: Path, zebra: Sample, other: Sample, position: str, side: str) -> None:
    check_planted(load_model(blueprint_of(checkpoint, padding_side=side), "cpu"), zebra, other, position)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("shift", [1, -1])
def test_a_shifted_position_is_found(
    model: HFModel, zebra: Sample, other: Sample, position: str, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = prompt.Layout.rows
    monkeypatch.setattr(
        prompt.Layout, "rows", lambda self, name: [[i + shift for i in segment] for segment in rows(self, name)]
    )
    with pytest.raises((AssertionError, ModelError, IndexError)):
        check_planted(model, zebra, other, position)


def test_mean_text_covers_the_users_words_and_no_others(model: HFModel, zebra: Sample) -> None:
    inputs = model._blueprint.process([zebra])
    ids = inputs["input_ids"][0].tolist()
    (layout,) = model._blueprint.layouts([zebra], inputs)
    tokenizer = model._blueprint.processor.tokenizer
    (span,) = layout.rows("mean_text")
    assert tokenizer.decode([ids[i] for i in span]).strip() == TEXT
    (image,) = layout.rows("mean_image")
    assert [ids[i] for i in image] == [3] * 16
    assert layout.rows("mean_all") == [list(range(len(ids)))]


def test_two_pictures_in_one_prompt(model: HFModel, scenes: Collection) -> None:
    sample = Sample.of(scenes.pictures[:2], TEXT, MARK)
    keys = [
        Key.parse(name) for name in ("vision.03@last_image", "connector@mean_image", "lm.01@last_image", "lm.01@last")
    ]
    chunk = read_states(model, model.collate([sample], keys), keys, torch.float32)
    alone = Sample.of(scenes.pictures[1:2], TEXT, MARK)
    second = read_states(model, model.collate([alone], keys[:1]), keys[:1], torch.float32)
    assert torch.allclose(chunk.values[keys[0]], second.values[keys[0]], atol=1e-5)
    assert all(values.shape == (1, 64) for values in chunk.values.values())


def test_several_marks_of_one_family_are_several_rows(model: HFModel, scenes: Collection) -> None:
    text = "objects: cat, dog"
    marks = {"object:cat": (9, 12), "object:dog": (14, 17)}
    sample, key = Sample.of(scenes.pictures[:1], text, marks), Key.parse("lm.02@mark:object")
    single = [Sample.of(scenes.pictures[:1], text, {"object": span}) for span in marks.values()]
    chunk = read_states(model, model.collate([sample, *single], [key]), [key], torch.float32)
    assert chunk.rows[key].tolist() == [0, 2, 3, 4]
    assert torch.allclose(chunk.values[key][:2], chunk.values[key][2:], atol=1e-5)


def test_the_image_tag_in_a_caption_is_refused(model: HFModel, scenes: Collection) -> None:
    sample = Sample.of(scenes.pictures[:1], "a picture of <image> tags", {})
    with pytest.raises(DataError, match=r"contains the image tag <image>; remove it from the caption"):
        model._blueprint.process([sample])


def test_an_unknown_mark_and_a_position_of_another_tower(model: HFModel, zebra: Sample) -> None:
    with pytest.raises(SpanError, match="mark 'verb' is not in this task's text; choose one of: object"):
        model.collate([zebra], [Key.parse("lm.01@mark:verb")])
    with pytest.raises(SpanError, match="position last does not exist in the vision"):
        model.collate([zebra], [Key.parse("vision.01@last")])


def test_too_long_for_the_model(tmp_path: Path, zebra: Sample) -> None:
    from tests.support.checkpoints import save_llava

    blueprint = blueprint_of(save_llava(tmp_path, max_positions=32))
    with pytest.raises(ModelError, match=r"has \d+ tokens, the model reads at most 32"):
        blueprint.survey([zebra], [Key.parse("lm.01@last")])


def test_chat_off_and_no_double_bos(checkpoint: Path, zebra: Sample) -> None:
    plain = blueprint_of(checkpoint, chat="off")
    assert plain.prompter.render(zebra).text == "<image>\n" + TEXT
    blueprint = blueprint_of(checkpoint)
    blueprint.processor.chat_template = "<s>" + blueprint.processor.chat_template
    ids = blueprint.process([zebra])["input_ids"][0].tolist()
    assert ids.count(1) == 1


@pytest.mark.parametrize("text", ["A", "ASSISTANT", ":", "image"])
def test_a_text_that_the_template_also_writes(model: HFModel, scenes: Collection, text: str) -> None:
    """The sample's own text is found by its place, not by its letters."""
    sample = Sample.of(scenes.pictures[:1], text, {})
    prompt = model._blueprint.prompter.render(sample)
    assert prompt.text[: prompt.start].endswith("<image>\n")
    assert prompt.text[prompt.start :] == text + " ASSISTANT:"


def test_a_template_that_writes_the_date_is_the_same_on_every_day(checkpoint: Path, zebra: Sample) -> None:
    blueprint = blueprint_of(checkpoint)
    blueprint.processor.chat_template = "{{ strftime_now('%Y-%m-%d') }} " + blueprint.processor.chat_template
    assert blueprint.prompter.render(zebra).text.startswith("01 Jan 2025 USER: ")
