"""Which chat template wraps a prompt, where it comes from, and what it makes of a question about pictures.

A template is a program of the checkpoint's, so anything may be wrong with it: here that becomes one sentence. Messages
hold their parts as a list; a template that was written for texts alone is given one text with the tags in it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_probe.config.model import AUTO, PLAIN, PromptSettings
from mllm_probe.errors import MllmProbeError, ModelError, first_line
from mllm_probe.files.seals import read_object

DEFAULT = "default"  # of several named templates
OWN = ("chat_template.jinja", "chat_template.json", "processor_config.json")  # a processor's, the first that has one
TOKENIZER = "tokenizer_config.json"
STAND_IN = "\u2063text\u2063"  # invisible separators around it, so that no template holds it
# for templates that write the date: the same prompt on every day
TODAY = "{%- macro strftime_now(format) -%}01 Jan 2025{%- endmacro -%}"
OPENED = re.compile(r"[<\[][^<>\[\]/]*(?:think|thought|reason)[^<>\[\]/]*[>\]]\s*$", re.IGNORECASE)
TRIED = (  # what a template that looks into a text, cuts, escapes or counts would give back otherwise
    "x",
    "Is this a red circle?",
    "One  line,\t'two' \"words\" & <more>\n\n{{ messages }} {% if %} [x] a/b \\n 50 %\nEl Niño, 猫, \U0001f408",
    "word " * 5_000 + "end",
)
LOOKED_FOR = "<[{/"  # what templates begin their signs with; they trim blanks at the ends, too


@dataclass(frozen=True)
class Template:
    """The template itself, and the file it comes from."""

    text: str
    source: str

    @property
    def dated(self) -> str:
        return TODAY + self.text if "strftime_now" in self.text else self.text


def find_template(processor: Any) -> Template | None:
    """The processor's own, else its tokenizer's; None where there is none. Raises ModelError where several have names,
    none of them the default."""
    folder = Path(str(getattr(processor.tokenizer, "name_or_path", "")))
    for owner, source in ((processor, _own_file(folder)), (processor.tokenizer, TOKENIZER)):
        found = getattr(owner, "chat_template", None)
        if isinstance(found, Mapping):
            if DEFAULT not in found:
                raise ModelError(
                    f"{folder}: {source} has chat templates named {', '.join(sorted(found))} and none named "
                    f"{DEFAULT}; rename the right one, or set prompt.chat=off"
                )
            found = found[DEFAULT]
        if found:
            return Template(str(found), source)
    return None


def _own_file(folder: Path) -> str:
    return next((name for name in OWN if _has(folder / name)), "the processor's class")


def _has(path: Path) -> bool:
    return path.is_file() and (path.suffix == ".jinja" or bool(_told(path).get("chat_template")))


def _told(path: Path) -> Mapping[str, Any]:
    try:
        return read_object(path)
    except ValueError:
        return {}


def from_tokenizer(folder: Path, prompt: PromptSettings) -> bool:
    """Whether prompts are wrapped by a template that stands in tokenizer_config.json alone, by the files."""
    return prompt.chat == AUTO and not any(_has(folder / name) for name in OWN) and _has(folder / TOKENIZER)


def described(processor: Any, settings: PromptSettings) -> str:
    """What to tell people of how prompts are wrapped."""
    if settings.chat != AUTO:
        lines = "no line between them" if settings.chat == PLAIN else "a new line between them"
        return f"no chat template (prompt.chat={settings.chat}): the picture and the text, {lines}"
    template = find_template(processor)
    if template is None:
        return "no chat template, because the checkpoint has none: the picture and the text, a new line between them"
    return f"the chat template in {template.source}"


class Wrapping:
    """Prompts of one template. Raises ModelError where it cannot wrap a question about a picture."""

    def __init__(self, processor: Any, template: Template, settings: PromptSettings, tag: str) -> None:
        self._processor, self._template, self._settings, self._tag = processor, template, settings, tag
        self._joined = self._takes_texts_alone()
        self._frames: dict[int, tuple[str, str] | None] = {}

    def __call__(self, pictures: int, text: str) -> str:
        """The template is rendered once around all texts where it was seen to keep texts as they are; one that it might
        look into is rendered on its own all the same."""
        looked_at = text != text.strip() or any(sign in text for sign in LOOKED_FOR)
        frame = None if looked_at else self._frame(pictures)
        return self._rendered(pictures, text, self._joined) if frame is None else f"{frame[0]}{text}{frame[1]}"

    def _frame(self, pictures: int) -> tuple[str, str] | None:
        """What stands before and after any text; None where only rendering it tells."""
        if pictures not in self._frames:
            before, _, after = self._rendered(pictures, STAND_IN, self._joined).partition(STAND_IN)
            self._frames[pictures] = before, after
            self.check(pictures, TRIED)
        return self._frames[pictures]

    def check(self, pictures: int, texts: Iterable[str]) -> None:
        """From here on every text is rendered, where one of these comes out otherwise than framed."""
        frame = self._frame(pictures)
        if frame is not None and any(self._alone(pictures, text) != f"{frame[0]}{text}{frame[1]}" for text in texts):
            self._frames[pictures] = None

    def _alone(self, pictures: int, text: str) -> str | None:
        """None where the template refuses it."""
        try:
            return self._rendered(pictures, text, self._joined)
        except ModelError:
            return None

    def _takes_texts_alone(self) -> bool:
        for joined in (False, True):
            try:
                if self._good(self._rendered(1, STAND_IN, joined)):
                    return joined
            except MllmProbeError:  # the same comes again where it is asked for a prompt
                continue
        return False

    def _good(self, prompt: str) -> bool:
        return prompt.count(STAND_IN) == 1 and (not self._tag or prompt.count(self._tag) == 1)

    def _rendered(self, pictures: int, text: str, joined: bool) -> str:
        tags = f"{self._tag}\n" * pictures if self._tag else ""
        parts = [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": text}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": tags + text if joined else parts}]
        if system := self._settings.system:
            own = system if joined else [{"type": "text", "text": system}]
            messages.insert(0, {"role": "system", "content": own})
        try:
            return str(
                self._processor.apply_chat_template(
                    messages,
                    chat_template=self._template.dated,
                    add_generation_prompt=self._settings.generation_prompt,
                )
            )
        except Exception as error:  # a template is a program, and raises what it likes
            less = "prompt.system=null leaves the system message out, " if system else ""
            raise ModelError(
                f"the chat template in {self._template.source} cannot be used ({type(error).__name__}: "
                f"{first_line(error)}); {less}"
                "prompt.chat=off does without a template"
            ) from error
