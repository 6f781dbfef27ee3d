"""Spans of prompts laid out by hand."""

from dataclasses import replace

import pytest

from mllm_probe.errors import ConfigError, SpanError
from mllm_probe.models.prompts.prompt import Layout, Tail
from mllm_probe.records.samples import Picked, Sample
from mllm_probe.records.spans import SPANS, check_span, ends_of, tokens_of

TEXT = "a red cat. Is this right?"  # 25 letters
WORDS = ((0, 1), (1, 5), (5, 9), (9, 10), (10, 13), (13, 18), (18, 25))


def layout(*, end: int = 0, chat: bool = True, pictures: bool = True) -> Layout:
    """Two tokens, four of a picture, one that closes it, a newline, the text, and what a template writes behind it."""
    frame = [(-1, 0), *WORDS, (25, 30), (30, 31)] if chat else [(-1, 0), *WORDS]
    sample = Sample("s", (), (), TEXT, {"caption": (0, 9), "name:a": (2, 5), "name:b": (6, 9)})
    tail = Tail("<image>", tuple(range(100, 100 + len(frame))), tuple(frame))
    return Layout(sample, tuple(range(7)), tail, tuple(range(200, 200 + end)), (2, 3, 4, 5) if pictures else ())


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ("image", [2, 3, 4, 5]),
        ("statement", [8, 9, 10, 11, 12, 13, 14]),
        ("template", [6, 7, 15]),
        ("last", [16]),
        ("behind", list(range(6, 17))),
        ("all", list(range(17))),
        ("mark:caption", [8, 9, 10]),
        ("mark:name", [9, 10]),
    ],
)
def test_every_span_is_the_tokens_that_it_says(span: str, expected: list[int]) -> None:
    assert tokens_of(layout(), span) == expected


@pytest.mark.parametrize("end", [0, 2])
@pytest.mark.parametrize("chat", [True, False])
def test_spans_share_no_token_and_are_all_behind_the_first_of_the_picture(end: int, chat: bool) -> None:
    """Also where the statement's own last token is the prompt's: it is `last` and not of the statement."""
    prompt = layout(end=end, chat=chat)
    parts = [tokens_of(prompt, span) for span in ("image", "statement", "template", "last")]
    assert sorted(token for part in parts for token in part) == list(range(2, len(prompt.ids)))
    assert tokens_of(prompt, "behind") == list(range(6, len(prompt.ids)))


def test_a_span_without_a_token_is_named() -> None:
    with pytest.raises(SpanError, match=r"sample s \(no picture\) has no token of the span 'image'"):
        tokens_of(layout(pictures=False), "image")
    with pytest.raises(SpanError, match="mark 'colour' is not in this task's text"):
        tokens_of(layout(), "mark:colour")
    with pytest.raises(SpanError, match="has no token of the span 'object'"):
        tokens_of(layout(), "object")


def test_an_object_is_the_tokens_that_a_sample_picks_and_the_rest_the_others() -> None:
    prompt = layout()
    prompt = replace(prompt, sample=replace(prompt.sample, picked=Picked((1, 3))))
    assert (tokens_of(prompt, "object"), tokens_of(prompt, "rest")) == ([3, 5], [2, 4])


def test_edges_are_read_and_what_no_prompt_has_is_refused_with_the_spans_there_are() -> None:
    assert ends_of("image->last", "x") == ("image", "last")
    assert ends_of("image -> mark:caption", "x") == ("image", "mark:caption")
    for edge, said in {
        "image": "x names the edge 'image', which must be SPAN->SPAN, such as image->last; spans are image, statement",
        "image->lst": "x names the span 'lst', which is unknown; did you mean 'last'? choose one of: all, behind",
        "->last": "x names the span '', which is unknown",
        "image->mark:": "x names the span 'mark:', which is unknown",
        "image->object": "x names the span 'object', which is another one in every statement",
        "image->statement->last": "x names the span 'statement->last', which is unknown",
    }.items():
        with pytest.raises(ConfigError) as error:
            ends_of(edge, "x")
        assert str(error.value).startswith(said)
    for span in (*SPANS, "mark:caption"):
        check_span(span, "x")
