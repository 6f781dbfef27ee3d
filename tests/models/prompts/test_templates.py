"""Which chat template wraps a prompt and from where, and that a template's faults are one sentence each."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mllm_probe.config.build import build
from mllm_probe.config.model import ModelSettings, PromptSettings
from mllm_probe.errors import ConfigError, ModelError, SpanError
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.prompts import prompt
from mllm_probe.models.prompts.prompt import Prompter
from mllm_probe.models.prompts.rendering import Rendering
from mllm_probe.models.prompts.templates import Wrapping, from_tokenizer
from mllm_probe.records.batches import Survey
from mllm_probe.records.protocols import Task
from mllm_probe.records.samples import Sample, digest
from tests.support.broken import SMALL, check
from tests.support.checkpoints import CHAT, blueprint_of, save_llava
from tests.support.families import FAMILIES
from tests.support.runs import Run, tiny

JOINED = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)
THINKING = CHAT.replace("' ASSISTANT:'", "' ASSISTANT: <think>\\n'")


def with_template(checkpoint: Path, folder: Path, template: object, file: str = "chat_template.jinja") -> Path:
    shutil.copytree(checkpoint, folder)
    (folder / "chat_template.jinja").unlink()
    if file.endswith(".jinja"):
        (folder / file).write_text(str(template))
    else:
        told = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
        (folder / file).write_text(json.dumps({**told, "chat_template": template}))
    return folder


NAMED = [{"name": "default", "template": CHAT}, {"name": "tools", "template": "tools"}]


@pytest.mark.parametrize(
    ("file", "template"),
    [
        ("chat_template.jinja", CHAT),
        ("chat_template.json", CHAT),
        ("tokenizer_config.json", CHAT),
        ("tokenizer_config.json", NAMED),
        ("tokenizer_config.json", JOINED),
        ("chat_template.jinja", JOINED),
    ],
    ids=["jinja", "json", "tokenizer", "named", "tokenizer of texts", "of texts"],
)
def test_the_template_that_is_there_wraps_the_prompt(
    checkpoint: Path, tmp_path: Path, samples: Sequence[Sample], file: str, template: object
) -> None:
    blueprint = blueprint_of(with_template(checkpoint, tmp_path / "model", template, file))
    expected = blueprint_of(checkpoint)
    assert blueprint.prompter.render(samples[0]).text == expected.prompter.render(samples[0]).text
    assert Rendering.of(blueprint, samples[0]).template == f"the chat template in {file}"


def test_a_template_of_the_tokenizer_is_part_of_the_identity(checkpoint: Path, tmp_path: Path) -> None:
    """Older releases did not read it; their caches hold bare prompts."""
    folder = with_template(checkpoint, tmp_path / "model", CHAT, "tokenizer_config.json")
    assert from_tokenizer(folder, PromptSettings()) and not from_tokenizer(folder, PromptSettings(chat="off"))
    assert not from_tokenizer(checkpoint, PromptSettings())


@pytest.mark.parametrize(
    ("template", "system", "message"),
    [
        ("{% if %}", None, r"the chat template in chat_template.jinja cannot be used \(TemplateSyntaxError: "),
        ("{{ nobody.knows }}", None, r"cannot be used \(UndefinedError: 'nobody' is undefined\); prompt.chat=off"),
        ("{{ ''.__class__.__mro__ }}", None, r"cannot be used \(SecurityError: "),
        ("{{ 1 / 0 }}", None, r"cannot be used \(ZeroDivisionError: "),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT,
            "Be brief.",
            r"cannot be used \(TemplateError: no system\); prompt.system=null leaves the system message out, prompt.ch",
        ),
    ],
    ids=["syntax", "unknown", "sandbox", "division", "system"],
)
def test_a_templates_faults_are_one_sentence(
    checkpoint: Path, tmp_path: Path, samples: Sequence[Sample], template: str, system: str | None, message: str
) -> None:
    folder = with_template(checkpoint, tmp_path / "model", template)
    with pytest.raises(ModelError, match=message):
        Blueprint(folder, ModelSettings(), PromptSettings(system=system), "right").survey(samples, [])


def test_several_names_without_a_default(checkpoint: Path, tmp_path: Path, samples: Sequence[Sample]) -> None:
    named = [{"name": "rag", "template": CHAT}, {"name": "tools", "template": CHAT}]
    folder = with_template(checkpoint, tmp_path / "model", named, "tokenizer_config.json")
    with pytest.raises(ModelError, match="templates named rag, tools and none named default"):
        blueprint_of(folder).prompter.render(samples[0])


def test_no_answer_is_read_where_the_model_begins_to_think(
    probe: Run, checkpoint: Path, tmp_path: Path, samples: Sequence[Sample]
) -> None:
    folder = with_template(checkpoint, tmp_path / "model", THINKING)
    with pytest.raises(ConfigError, match="the chat template ends in <think>, so the model thinks first"):
        blueprint_of(folder).answers("answer:Yes/No")
    closed = with_template(checkpoint, tmp_path / "closed", THINKING.replace("<think>", "<think></think>"))
    assert blueprint_of(closed).answers("answer:Yes/No")
    check(
        probe("run", *tiny(folder), *SMALL), tmp_path, "ends in <think>", "set extract.answers=null, or prompt.chat=off"
    )


def test_a_mapping_that_is_none(checkpoint: Path) -> None:
    node = {"_target_": "mllm_probe.tasks.entailment.Entailment", "templates": None}
    with pytest.raises(ConfigError, match="task.templates=null must be names with values in braces"):
        build(node, Task)  # type: ignore[type-abstract]


def test_the_run_says_which_template(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, _, err = probe("run", *tiny(checkpoint), "experiment=smoke", *SMALL, "hydra.run.dir=one")
    assert code == 0 and "prompts: the chat template in chat_template.jinja" in err
    assert json.loads((tmp_path / "one" / "summary.json").read_text())["template"] == (
        "the chat template in chat_template.jinja"
    )
    assert "the chat template in chat_template.jinja" in (tmp_path / "one" / "report.html").read_text()
    code, out, err = probe("inspect", *tiny(checkpoint), *SMALL, "n=1", "prompt.chat=off")
    assert code == 0 and "no chat template (prompt.chat=off)" in " ".join(out.split()), out + err


TEXTS = (
    "a red circle",
    "A red circle is left of two blue squares; is this right, yes or no?",
    "one\ntwo  three\t'four' \"five\" & 50 % \\ six",
    "El Niño, 猫, \U0001f408",
    " a blank before",
    "and one behind ",
    "a/b {{ x }} {% y %} [z] <b>c</b> </think> d",
    "word " * 300 + "end",
)


def each_alone(blueprint: Blueprint, samples: Sequence[Sample]) -> Survey:
    """What the survey is where the template is rendered for every text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Wrapping, "_frame", lambda self, pictures: None)
        return blueprint.prompter.survey(samples)


def about(pictures: Sequence[Path], text: str) -> Sample:
    names = tuple(path.name for path in pictures)
    return Sample(digest(names, text), tuple(pictures), names, text, {})


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of PaliGemma's processor under numpy 2
@pytest.mark.parametrize("family", sorted({"llava": save_llava, **FAMILIES}))
def test_one_rendering_around_all_texts_gives_the_ids_of_one_each(family: str, tmp_path: Path) -> None:
    blueprint = blueprint_of({"llava": save_llava, **FAMILIES}[family](tmp_path / "model"))
    texts = [text for text in TEXTS if blueprint.prompter.tag.text not in text]
    samples = [about([Path("a.png")] * n, text) for n in (0, 1, 2) for text in texts]
    rendered, quick = [], []
    with pytest.MonkeyPatch.context() as patch:
        original, backend = Wrapping._rendered, Prompter._without_places
        patch.setattr(Wrapping, "_rendered", lambda self, *args: rendered.append(args) or original(self, *args))
        patch.setattr(Prompter, "_without_places", lambda self, texts: quick.append(texts) or backend(self, texts))
        patch.setattr(prompt, "AT_ONCE", 5)
        framed = blueprint.prompter.survey(samples)
        once = len(rendered)
        blueprint.prompter.survey(samples * 20)
    expected = each_alone(blueprint, samples)
    for column in ("uids", "prefix", "prefixes", "flat", "bounds"):
        assert np.array_equal(getattr(framed, column), getattr(expected, column)), column
    assert framed.prompts == expected.prompts and len(rendered) - once < 20 * len(samples)
    assert len(quick) > len(samples) // 5, "the tokenizer's backend was not trusted with the later texts"


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ("p['text'] | trim", (" a blank before", "and one behind ")),
        ("p['text'][:200]", (TEXTS[-1],)),
        ("p['text'] | e", (TEXTS[2], TEXTS[6])),
        ("p['text'].split('</think>')[-1]", (TEXTS[6],)),
        ("p['text'] | replace('  ', ' ')", (TEXTS[2],)),
        ("p['text'] if p['text'] | length < 99 else 'long'", (TEXTS[-1],)),
        ("p['text'] ~ ('' if p['text'] | length > 99 else ' and ' ~ p['text'])", TEXTS),
    ],
)
def test_a_template_that_looks_into_texts_is_rendered_for_each(
    checkpoint: Path, tmp_path: Path, change: str, refused: tuple[str, ...]
) -> None:
    """Texts that it changes are refused, as ever."""
    blueprint = blueprint_of(with_template(checkpoint, tmp_path / "model", CHAT.replace("p['text']", change)))
    plain = blueprint_of(checkpoint)
    for text in TEXTS:
        sample = about([Path("a.png")], text)
        if text in refused:
            with pytest.raises(SpanError):
                blueprint.prompter.render(sample)
        else:
            assert blueprint.prompter.render(sample) == plain.prompter.render(sample)


def test_texts_of_the_run_are_tried_before_a_template_is_trusted(checkpoint: Path, tmp_path: Path) -> None:
    """No list of texts knows every word that a template may wait for."""
    secret = CHAT.replace("p['text']", "p['text'] | replace('zebra', 'horse')")
    blueprint = blueprint_of(with_template(checkpoint, tmp_path / "model", secret))
    with pytest.raises(SpanError, match="must stay unchanged"):
        blueprint.prompter.survey([about([Path("a.png")], f"zebra {i}") for i in range(100)])
