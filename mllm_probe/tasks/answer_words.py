"""Which word of `extract.answers` belongs to which label. Words are bound to names of labels, not to their order."""

from collections.abc import Mapping, Sequence
from typing import Any

from mllm_probe.errors import ConfigError, choices, few
from mllm_probe.records.samples import Examples
from mllm_probe.tasks.label_names import NO, YES, bare, mapping, typed_names

SETTING = "extract.answers"
LIKE = "{yes: Yes, no: No}"


def _words(given: Any) -> list[Any]:
    return given if isinstance(given, list) else list(mapping(given, SETTING, LIKE).values())


def check_words(given: Any, kind: str | None) -> None:
    """What can be seen before labels are known. Raises ConfigError."""
    if given is None:
        return
    words = _words(given)
    if len({bare(str(word)) for word in words}) < max(2, len(words)) or not all(
        word is not None and str(word).strip() for word in words
    ):
        raise ConfigError(
            f"{SETTING}={given} must hold a word for each label, all different: [Yes, No] or with names {LIKE}, or null"
        )
    if kind == "number":
        raise ConfigError(f"{SETTING}={given}: labels are numbers here and have no words; set it to null")
    if kind == "binary" and len(words) != 2:
        raise ConfigError(f"{SETTING}={given} holds {len(words)} words, and there are two labels, no and yes")


def bound(given: Any, examples: Examples) -> tuple[str, ...]:
    """The words as answers are stored: of two labels that of label 1 first, of more in the order of the labels; none
    where none were given. Raises ConfigError."""
    if given is None:
        return ()
    if not examples.decisions:  # labels are not known yet
        return tuple(_words(given))
    check_words(given, examples.kind)
    if not examples.names:  # a task that names no label: the words of label 1 and label 0
        return tuple(_words(given))
    word_of = _listed(given, examples.names) if isinstance(given, list) else _named(given, examples.names)
    words = [word_of[name] for name in examples.names]
    return tuple(words[::-1] if examples.kind == "binary" else words)


def _named(given: Any, names: Sequence[str]) -> dict[str, str]:
    found = mapping(given, SETTING, LIKE)
    own = {bare(name): name for name in names}
    for key in found:
        if bare(key) not in own:
            raise ConfigError(f"{SETTING} names the label {key!r}, which does not exist; {choices(key, names)}")
    word_of = {own[bare(key)]: str(word) for key, word in found.items()}
    if lacking := [name for name in names if name not in word_of]:
        raise ConfigError(f"{SETTING}={given} has no word for {len(lacking)} of {len(names)} labels: {few(lacking, 6)}")
    return word_of


def _listed(words: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """By the labels' own names, or yes for yes and no for no however they are put."""
    for meant in (bare, _side):
        by_word = {meant(word): word for word in words}
        if None not in by_word and {meant(name) for name in names} == set(by_word) and len(by_word) == len(words):
            return {name: by_word[meant(name)] for name in names}
    example = typed_names(SETTING, dict(zip(names, [*words, *["WORD"] * len(names)], strict=False)))
    raise ConfigError(
        f"{SETTING}={list(words)} does not assign its {len(words)} words to the {len(names)} labels "
        f"({few(names, 6)}); name them, as in {example}, or set it to null"
    )


def _side(word: str) -> str | None:
    return "yes" if bare(word) in YES else "no" if bare(word) in NO else None


def answered(words: Sequence[str], examples: Examples) -> Mapping[str, str]:
    """{label: its word} of words as `bound` gives them."""
    names = examples.names or ("0", "1")
    return dict(zip(names, words[::-1] if examples.kind == "binary" else words, strict=True))
