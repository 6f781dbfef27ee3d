"""Names of stretches of a prompt, and their tokens.

`image`: the tokens of pictures; `behind`: all behind the last of them; `statement`: those of the sample's own text;
`template`: what is behind the pictures and neither statement nor last; `last`: the last token; `all`; `mark:NAME`: a
stretch of the text that the task has marked, such as the caption.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from mllm_probe.errors import ConfigError, SpanError, choices

IMAGE, BEHIND, STATEMENT, TEMPLATE, LAST, ALL, MARK = (
    "image",
    "behind",
    "statement",
    "template",
    "last",
    "all",
    "mark:",
)
SPANS = (IMAGE, STATEMENT, TEMPLATE, LAST, BEHIND, ALL, "mark:NAME")
ARROW = "->"


class Laid(Protocol):
    """A prompt that was laid out, see prompts.prompt.Layout."""

    sample: Any
    image: Sequence[int]

    @property
    def ids(self) -> Sequence[int]: ...

    def rows(self, position: str) -> list[list[int]]: ...


def check_span(name: str, setting: str) -> None:
    """Raises ConfigError for a name that no prompt has."""
    if name not in SPANS[:-1] and not (name.startswith(MARK) and len(name) > len(MARK)):
        raise ConfigError(f"{setting} names the tokens '{name}', which do not exist; {choices(name, SPANS)}")


def edge_of(text: str, setting: str) -> tuple[str, str]:
    """`A->B` as (A, B): queries at B that may not read keys at A. Raises ConfigError."""
    source, arrow, span = text.partition(ARROW)
    if not arrow:
        raise ConfigError(f"{setting}={text} must be an edge A->B, such as image->last")
    for name in (source, span):
        check_span(name, f"{setting}={text}")
    return source, span


def behind_from(layout: Laid) -> int:
    """The first token behind the last picture token; 0 where no token stands for a picture."""
    return layout.image[-1] + 1 if layout.image else 0


def tokens_of(layout: Laid, span: str) -> list[int]:
    """Token indices of a span, ascending. Raises SpanError."""
    length = len(layout.ids)
    if span == LAST:
        return [length - 1]
    if span == ALL:
        return list(range(length))
    if span.startswith(MARK):
        return sorted({row[0] for row in layout.rows(f"tokens:{span.removeprefix(MARK)}")})
    if span == STATEMENT:
        return [token for (token,) in layout.rows("tokens:text") if token != length - 1]
    start = behind_from(layout)
    if span == IMAGE:
        if not layout.image:
            raise SpanError(f"the prompt about {layout.sample.name} has no token of its picture, so no span '{IMAGE}'")
        return list(layout.image)
    if span == BEHIND:
        return list(range(start, length))
    taken = {length - 1, *tokens_of(layout, STATEMENT)}
    return [token for token in range(start, length) if token not in taken]
