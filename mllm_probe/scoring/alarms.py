"""What must not pass for a result: constant probes, rows that cannot differ, questions that answer themselves.

Each guard looks at arrays and returns a sentence, or None where all is well; whether to stop is the caller's choice.
Knows no task, no layer and no file. Letters: S seeds, N rows, D width, C classes.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from mllm_probe.errors import count, few
from mllm_probe.records.samples import label_said
from mllm_probe.records.units import named
from mllm_probe.stats.intervals import BY_LABEL

ROUNDING = 1e-6  # outputs that differ by less, relative to the largest, are the same number computed twice
FEW = 30  # test pictures, in all or of a label
SEEN, RIGHT, LEAST = 0.5, 0.95, 10  # shares and number of test rows from which a question counts as an answer


def few_groups(groups: int, called: str) -> str | None:
    """What intervals of so few test groups are worth; `called`: what they are, pictures or others."""
    if groups >= FEW:
        return None
    return (
        f"{groups} test {called}: intervals are valid but long, and so few {called} may be atypical by chance; take "
        f"{FEW} or more before you compare layers"
    )


def rare_label(
    metric: str, labels: np.ndarray, groups: np.ndarray, names: Sequence[str] = (), called: str = "picture"
) -> str | None:
    """Why layers or runs are `not compared by` a measure on test rows with labels and groups [N].
    `names` are those of the labels, `called` is what a group is.

    Signs of linearised scores are not exchangeable where the few rows of a label outweigh all others: of 8 equal layers
    some pair then alarms far more often than it should.
    """
    if metric not in BY_LABEL:
        return None
    held = {label: len(np.unique(groups[labels == label])) for label in np.unique(labels).tolist()}
    rarest = min(held, key=lambda label: held[label])
    if held[rarest] >= FEW:
        return None
    said = f"label {label_said(names, rarest)} is in {count(held[rarest], f'test {called}')}, and {FEW} are needed"
    return f"not compared by {named(metric)}: {said}"


def worse_than_chance(auroc: float, high: float, words: Mapping[str, str]) -> str | None:
    """Do the model's own answers order the labels the wrong way round? `high` ends the AUROC's interval, `words` are
    {label: the answer that stands for it}."""
    if not high < 0.5:
        return None
    told = few([f"{word!r} for the label {label}" for label, word in words.items()])
    return (
        f"the model's own answers are worse than chance (AUROC {auroc:.3f}, at most {high:.3f}) with {told}; check "
        "that each word of extract.answers belongs to its label, and that labels answer the prompt"
    )


def constant_predictions(logits: np.ndarray, where: str) -> str | None:
    """Does any seed's probe give every row the same output? logits [S, N] or [S, N, C], or predicted numbers."""
    if logits.shape[1] < 2:
        return None
    with np.errstate(invalid="ignore"):  # what is not finite is another check's
        spread, largest = np.ptp(logits, axis=1), np.abs(logits).max(axis=1)
    same = (spread <= ROUNDING * largest).reshape(len(logits), -1).all(axis=1)
    if not same.any():
        return None
    return (
        f"{where}: the probes of {int(same.sum())} of {len(logits)} seeds give all {logits.shape[1]} rows the same "
        "output, so their score means nothing; check that the rows differ at this position"
    )


def identical_vectors(
    rows: np.ndarray, labels: Sequence[float], groups: Sequence[str], samples: Sequence[str], where: str
) -> str | None:
    """Are two decisions about one picture, with other labels and other samples, made from exactly equal vectors?

    rows [N, D]; labels, groups and samples [N]. No probe can tell such decisions apart: the position lies before the
    words that differ, or the prompt was cut. By design so where a position does not see the statement at all.
    """
    if not len(rows) == len(labels) == len(groups) == len(samples):
        raise ValueError(f"{len(rows)} rows, {len(labels)} labels, {len(groups)} groups, {len(samples)} samples")
    alike: dict[tuple[str, bytes], list[int]] = defaultdict(list)
    for i, (group, row) in enumerate(zip(groups, rows, strict=True)):
        alike[group, row.tobytes()].append(i)
    # rows of several labels and several samples always hold a pair that differs in both
    hit = [m for m in alike.values() if len({labels[i] for i in m}) > 1 and len({samples[i] for i in m}) > 1]
    if not hit:
        return None
    first = hit[0][0]
    second = next(i for i in hit[0] if samples[i] != samples[first])
    return (
        f"{where}: {sum(map(len, hit))} of {len(rows)} rows equal another row about the same picture that has another "
        f"label (picture {groups[first]}, samples {samples[first]} and {samples[second]}), so no probe can "
        "separate them; read a position after the words that differ"
    )


def question_decides(texts: Sequence[str], labels: Sequence[float], train: np.ndarray, test: np.ndarray) -> str | None:
    """Does a question's text alone decide its label? texts, labels [N]; train, test [N] bool.

    A test row is predicted by the training rows of the same words (letter case and blanks aside) where these have one
    label only. Half of the test rows must be so predicted and 95 % of these rightly, more than their commonest label
    alone would get. Texts that are as often true as false never are.
    """
    same = [" ".join(text.split()).casefold() for text in texts]
    taught: dict[str, set[float]] = defaultdict(set)
    for i in np.flatnonzero(train).tolist():
        taught[same[i]].add(labels[i])
    tested = np.flatnonzero(test).tolist()
    decided = [i for i in tested if len(taught.get(same[i], ())) == 1]
    right = sum(labels[i] in taught[same[i]] for i in decided)
    commonest = max(Counter(labels[i] for i in decided).values(), default=0)
    if len(decided) < max(LEAST, SEEN * len(tested)) or right < RIGHT * len(decided) or right <= commonest:
        return None
    return (
        f"the question decides the label: {right} of {len(tested)} test rows are right without any picture, by the "
        f"label of the same words in training ({len(decided)} of them have words with only one label there); ask "
        "each question with every label"
    )
