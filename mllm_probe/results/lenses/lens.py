"""lens.csv and words.csv: how often the words that picture tokens stand for name what lies there, and some of them.
Knows no way in which words are found."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.files.readback import load_filled, save_rows

if TYPE_CHECKING:
    import pandas as pd

LOGIT, EMBEDDING, LATENT = "logit", "embedding", "latent"  # lenses
SHARES = LOCAL, ELSEWHERE, UNRELATED = "local", "elsewhere", "unrelated"
ABOVE = {LOCAL: "local_above_chance", ELSEWHERE: "elsewhere_above_chance"}
PRESENCE = "presence_auroc"
OBJECTS, BESIDE, ALL = "objects", "beside", "all"  # which tokens are counted
EXCHANGED = "exchanged_pictures"
SUMMARY = {"pictures": int, "said": list}  # what is read of summary.json


@dataclass(frozen=True)
class Lens:
    """One row of lens.csv; the fields are its columns, in order. Empty: no value.

    `metric`: the shares of tokens one of whose `top` nearest words is local (names a category that covers the token by
    half), of the rest those with one that is elsewhere (names a category in the picture), and those with unrelated
    words alone, of tokens on `objects` and `beside` them; local_above_chance and elsewhere_above_chance, the same less
    that of exchanged pictures; presence_auroc of "the category is in the picture" by the largest probability of its
    name at any token, a mean over `n_categories`, without a site: at any layer.

    `control` is empty for the model and its pictures; exchanged_pictures: each picture got another's masks;
    random_weights: an untrained model. `n` tokens, for presence pictures, of `n_groups` groups of pictures.
    """

    run: str
    cache: str
    model: str
    revision: str
    quantization: str
    dataset: str
    site: str
    tower: str
    layer: int | None
    part: str
    depth: float | None
    position: str
    lens: str
    control: str = ""
    metric: str = ""
    tokens: str = ""
    top: int | None = None
    n: int = 0
    n_groups: int = 0
    n_categories: int | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    ci_level: float | None = None


@dataclass(frozen=True)
class Word:
    """One row of words.csv: a word that a picture token stands for, at `row` and `column` of its view. `score`: the
    probability of the logit lens, the cosine of the others; `said`: what the word is there."""

    picture: str
    token: int
    view: int
    row: int
    column: int
    site: str
    lens: str
    rank: int
    word: str
    score: float
    said: str


def save_lens(path: Path, rows: Iterable[Lens]) -> None:
    save_rows(path, Lens, list(rows))


def save_words(path: Path, rows: Iterable[Word]) -> None:
    """Four digits a score."""
    save_rows(path, Word, list(rows), digits=4)


def load_words(path: Path) -> "pd.DataFrame":
    """The same of words.csv."""
    return load_filled(path, Word, "run of mllm-probe lens")


def load_lens(path: Path) -> "pd.DataFrame":
    """Texts are "" and numbers nan where empty. Raises DataError where the file is missing, damaged or without rows."""
    return load_filled(path, Lens, "run of mllm-probe lens")
