"""Spans, stretches of a prompt with a name, and which tokens they are.

`image`: the tokens of pictures; `behind`: all behind the last of them; `last`: the last token; `statement`: those of
the sample's own text but `last`; `template`: the others behind the pictures; `all`; `mark:NAME`: a stretch of the text
that the task has marked, such as the caption. So `image`, `statement`, `template` and `last` share no token. `object`:
the picture tokens that a sample has picked, those of the object that it is about; `rest`: the picture's others.
"""

from collections.abc import Sequence
from typing import Protocol

from mllm_probe.errors import ConfigError, SpanError, choices
from mllm_probe.records.samples import Sample

SPANS = IMAGE, STATEMENT, TEMPLATE, LAST, BEHIND, ALL = "image", "statement", "template", "last", "behind", "all"
OBJECTS = OBJECT, REST = "object", "rest"
MARK = "mark:"
ARROW = "->"


class Expanded(Protocol):
    """A prompt as the model reads it: `ids` of all tokens, and which of them are the picture's."""

    @property
    def sample(self) -> Sample: ...

    @property
    def ids(self) -> Sequence[int]: ...

    @property
    def image(self) -> Sequence[int]: ...

    def rows(self, position: str) -> list[list[int]]:
        """The rows of a position, each as the tokens that it averages. Raises SpanError."""


def check_span(span: str, setting: str) -> None:
    """Raises ConfigError for a span that no prompt has."""
    if span in OBJECTS:
        raise ConfigError(
            f"{setting} names the span '{span}', which is another one in every statement about a picture, so it can "
            f"only be what an edge of a knockout begins at, as in {span}->statement; {choices(span, _allowed())}"
        )
    if span not in SPANS and not (span.startswith(MARK) and span != MARK):
        raise ConfigError(f"{setting} names the span '{span}', which is unknown; {choices(span, _allowed())}")


def ends_of(edge: str, setting: str) -> tuple[str, str]:
    """Of an edge `A->B` the span of the keys and that of the queries: B may not read A. Raises ConfigError."""
    source, arrow, span = (part.strip() for part in edge.partition(ARROW))
    if not arrow:
        raise ConfigError(
            f"{setting} names the edge '{edge}', which must be SPAN->SPAN, such as image->last; spans are "
            f"{', '.join(_allowed())}"
        )
    for end in (span,) if source in OBJECTS else (source, span):
        check_span(end, setting)
    return source, span


def tokens_of(layout: Expanded, span: str) -> list[int]:
    """The places [T] of a span's tokens in the prompt's ids, in their order. Raises SpanError where it has none."""
    found = _tokens(layout, span)
    if not found:
        raise SpanError(f"sample {layout.sample.uid} ({layout.sample.name}) has no token of the span '{span}'")
    return found


def behind_from(layout: Expanded) -> int:
    """The first token behind the last one of a picture; 0 where no token stands for a picture."""
    return layout.image[-1] + 1 if len(layout.image) else 0


def _tokens(layout: Expanded, span: str) -> list[int]:
    length = len(layout.ids)
    behind = range(behind_from(layout), length)
    if span == IMAGE:
        return list(layout.image)
    if span in OBJECTS:
        own = {layout.image[token] for token in layout.sample.picked.tokens}
        return sorted(own) if span == OBJECT else [token for token in layout.image if token not in own]
    if span == LAST:
        return [length - 1]
    if span == ALL:
        return list(range(length))
    if span.startswith(MARK):
        return _read(layout, span.removeprefix(MARK))
    said = [token for token in _read(layout, "text") if token != length - 1]
    if span == STATEMENT:
        return said
    if span == TEMPLATE:
        return sorted(set(behind) - {*said, length - 1})
    if span == BEHIND:
        return list(behind)
    raise SpanError(f"the span '{span}' is unknown; {choices(span, _allowed())}")


def _read(layout: Expanded, name: str) -> list[int]:
    return sorted({token for row in layout.rows(f"tokens:{name}") for token in row})


def _allowed() -> tuple[str, ...]:
    return (*SPANS, f"{MARK}NAME")
