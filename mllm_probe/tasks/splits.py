"""Which picture may train, validate or test. Knows the groups of pictures and official splits; of labels only what a
task that does not balance them itself says of each group.

The test pictures are fixed by the data seed. The others are cut into blocks, and a probe seed picks which blocks
validate. Tasks balance their labels inside every fold (test, or one block), so they are balanced in every split
that any seed can draw, and no text says more in validation than it did in training. A file of official splits takes
the place of the shares: its validation pictures, where it has any, are a fold of their own that every seed uses. The
splits.csv of a run holds the splits of its seeds; groups that lie alike in all of them are a fold.
"""

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from mllm_probe.config.run import UNITS
from mllm_probe.data.pictures import lacking
from mllm_probe.errors import ConfigError, DataError, choices, count, few
from mllm_probe.records.samples import Decision, Examples, Picture, label_said

TEST, VAL = 0, -1  # folds of their own; blocks are numbered from 1
SPLITS = ("train", "val", "test")
MIN_PICTURES = 2  # a fold needs two pictures to exchange captions
HEADER, OF_A_RUN = ["picture", "split"], ["seed", "group", "split"]
ALL = ""  # seeds, where a file does not tell them apart


@dataclass(frozen=True)
class Folds:
    """Shares of the pictures: `test` for the test set, then `val` of the `blocks` for validation.

    `file` is a CSV of picture,split, or the splits.csv of a run, that takes their place. `unit` row draws rows and not
    pictures, see `rowwise`.
    """

    test: float = 0.25
    val: float = 0.2
    blocks: int = 10
    seed: int = 0
    unit: str = "picture"
    file: str | None = None

    def __post_init__(self) -> None:
        if not (0 < self.test < 1 and 0 < self.val < 1 and self.blocks >= 2):
            raise ConfigError(
                f"splits.test={self.test}, splits.val={self.val}, splits.blocks={self.blocks}: the shares must be "
                "between 0 and 1 and at least 2 blocks are needed"
            )
        if self.unit not in UNITS:
            raise ConfigError(f"splits.unit={self.unit} is unknown; {choices(self.unit, UNITS)}")
        if self.unit == "row" and self.file is not None:
            raise ConfigError(f"splits.unit=row ignores pictures, so splits.file={self.file} cannot be kept; set one")

    def assign(self, pictures: Sequence[Picture], strata: Mapping[str, str] | None = None) -> dict[str, int]:
        """{picture group: fold}; the pictures of a group share a fold. Groups of each of `strata` {group: its stratum}
        are spread over the folds as evenly as their number allows. Raises DataError."""
        if self.file is not None:
            return self._official(pictures, Path(self.file))
        groups = self._shuffled(picture.group for picture in pictures)
        if strata and len(set(strata.values())) > 1:
            return self._drawn(self._spread(groups, strata), "picture", "take more")
        return self._drawn(groups, "picture", "take more")

    def _spread(self, groups: Sequence[str], strata: Mapping[str, str]) -> list[str]:
        """Stratum by stratum, those for the test set, taken at even distances, first."""
        ordered = sorted(groups, key=lambda group: strata.get(group, ""))  # stable: shuffled within a stratum
        n_test = round(self.test * len(ordered))
        test = {(2 * k + 1) * len(ordered) // (2 * n_test) for k in range(n_test)}
        return [ordered[i] for i in sorted(test)] + [one for i, one in enumerate(ordered) if i not in test]

    def _shuffled(self, groups: Iterable[str]) -> list[str]:
        found = sorted(set(groups))
        Random(f"folds/{self.seed}").shuffle(found)
        return found

    def _drawn(self, groups: Sequence[str], unit: str, remedy: str) -> dict[str, int]:
        n_test = round(self.test * len(groups))
        if n_test < MIN_PICTURES or len(groups) - n_test < 2 * MIN_PICTURES:
            raise DataError(
                f"{count(len(groups), f'different {unit}')} cannot fill a test set and two blocks "
                f"(splits.test={self.test}); {remedy}"
            )
        return dict.fromkeys(groups[:n_test], TEST) | self._blocks(groups[n_test:])

    def _blocks(self, groups: Sequence[str]) -> dict[str, int]:
        blocks = min(self.blocks, len(groups) // MIN_PICTURES)
        return {group: 1 + i % blocks for i, group in enumerate(groups)}

    def _official(self, pictures: Sequence[Picture], file: Path) -> dict[str, int]:
        """The folds of a file: its test and val pictures, and those that train as one fold or, without val, blocks."""
        seeded = read_splits(file)
        if ALL not in seeded:
            return _alike(pictures, seeded, file)
        listed = seeded[ALL]
        split = _groups(pictures, listed, file)
        by_name = {name: self._shuffled(group for group, own in split.items() if own == name) for name in SPLITS}
        fixed = "val" in listed.values()
        least = {"test": MIN_PICTURES, "train": MIN_PICTURES * (1 if fixed else 2), "val": MIN_PICTURES if fixed else 0}
        for name, n in least.items():
            if len(by_name[name]) < n:
                raise DataError(
                    f"splits.file={file}: the {name} split has {len(by_name[name])} of the {len(pictures)} selected "
                    f"pictures, {n} different ones are needed; list more or select more (data.n)"
                )
        train = dict.fromkeys(by_name["train"], 1) if fixed else self._blocks(by_name["train"])
        return train | dict.fromkeys(by_name["test"], TEST) | dict.fromkeys(by_name["val"], VAL)

    def listed(self, seed: int) -> Mapping[str, str] | None:
        """{group: split} where `file` is that of a run, None where it is one for every seed.

        Raises DataError, and ConfigError for a seed that the run did not have.
        """
        found = read_splits(Path(str(self.file)))
        if ALL in found:
            return None
        if str(seed) not in found:
            raise ConfigError(
                f"splits.file={self.file} has the splits of the seeds {', '.join(found)} and none of seed {seed}; "
                f"set sweep.seeds=[{','.join(found)}]"
            )
        return found[str(seed)]

    def check(self, examples: Examples, seeds: Sequence[int]) -> None:
        """Refuse splits that a probe cannot learn from or be judged on, before anything costly begins.

        Every split needs two labels, and every class of classes; no picture may hold more than half of a split's rows.
        Decisions that only test another wording or whose label the prompt gives away do not count. Raises DataError.
        """
        counted = [decision for decision in examples.decisions if not decision.given and not decision.template]
        classes = {decision.label for decision in counted} if examples.kind == "classes" else set()
        for seed in seeds:
            split = self.splits(examples.folds, seed)
            rows: dict[str, list[Decision]] = {name: [] for name in SPLITS}
            for decision in counted:
                rows[split[decision.group]].append(decision)
            for name, held in rows.items():
                self._check_split(f"seed {seed}: the {name} split", held, classes, examples.names)

    def _check_split(
        self, where: str, held: Sequence[Decision], classes: set[int | float], names: Sequence[str]
    ) -> None:
        if not held:
            raise DataError(f"{where} is empty: nothing is asked about its pictures; {self._more()}")
        labels = {decision.label for decision in held}
        if absent := [label_said(names, label) for label in sorted(classes - labels)]:
            raise DataError(
                f"{where} lacks {len(absent)} of {len(classes)} classes: {few(absent, 6)}; {self._more()}, "
                "or leave such classes out with task.rare=drop"
            )
        if len(labels) < 2:
            only = ", ".join(label_said(names, label) for label in labels)
            raise DataError(f"{where} has only the label {only}, two are needed; {self._more()}")
        group, size = Counter(decision.group for decision in held).most_common(1)[0]
        if size > len(held) / 2:
            raise DataError(
                f"{where} has {size} of its {len(held)} rows about one picture ({group}); "
                "take more pictures (data.n) or ask less about each"
            )

    def _more(self) -> str:
        if self.file:
            return f"select more pictures (data.n) or list more in splits.file={self.file}"
        return "take more pictures (data.n) or fewer splits.blocks"

    def splits(self, folds: Mapping[str, int], seed: int) -> dict[str, str]:
        """{picture group: train | val | test} for one probe seed; a fold VAL is what every seed validates on.

        Raises ConfigError for a seed that a run's own splits do not have.
        """
        if self.file is not None and (listed := self.listed(seed)) is not None:
            return {group: listed[group] for group in folds}
        blocks = sorted(set(folds.values()) - {TEST})
        val = {VAL}
        if VAL not in folds.values():
            n_val = min(max(1, math.floor(self.val * len(blocks) + 0.5)), len(blocks) - 1)
            val = set(Random(f"splits/{self.seed}/{seed}").sample(blocks, n_val))
        names = {TEST: "test"} | dict.fromkeys(blocks, "train") | dict.fromkeys(val, "val")
        return {group: names[fold] for group, fold in folds.items()}


def rowwise(examples: Examples, folds: Folds) -> Examples:
    """The same decisions, each a group of its own, and folds drawn anew over them (splits.unit=row); the halves of a
    contrast pair are one.

    This leaks on purpose: rows about one picture land on both sides, so a probe that recognises the picture is right
    without knowing anything else. It shows what such splits are worth, and is not for results. Raises DataError.
    """
    own = [(decision.pair if decision.side else None) or decision.uid for decision in examples.decisions]
    decisions = tuple(replace(d, group=group) for d, group in zip(examples.decisions, own, strict=True))
    groups = folds._shuffled(own)
    return replace(examples, decisions=decisions, folds=folds._drawn(groups, "row", "take more pictures"))


def leaks(examples: Examples, folds: Folds, seeds: Sequence[int]) -> None:
    """Refuse examples in which one picture is on two sides, whatever the task called its groups; not for unit=row.

    Raises DataError naming the picture.
    """
    if folds.unit == "row":
        return
    samples = {sample.uid: sample for sample in examples.samples}
    seen: dict[str, dict[str, str]] = defaultdict(dict)  # {picture digest: {group: how the picture is called}}
    for decision in examples.decisions:
        if decision.group not in examples.folds:
            raise DataError(
                f"decision {decision.uid} belongs to the group {decision.group!r}, which has no fold; "
                "a task's groups are those that Folds.assign returns"
            )
        sample = samples[decision.sample]
        for content, path in zip(sample.digests, sample.images, strict=False):
            seen[content][decision.group] = path.name
    several = {content: groups for content, groups in seen.items() if len(groups) > 1}
    for seed in seeds:
        split = folds.splits(examples.folds, seed)
        for content, groups in several.items():
            sides = {split[group]: group for group in groups}
            if len(sides) > 1:
                (one, first), (other, second), *_ = sides.items()
                raise DataError(
                    f"seed {seed}: picture {groups[first]} (digest {content}) is in the {one} split by the group "
                    f"{first!r} and in the {other} split by {second!r}; decisions about one picture need one group"
                )


def read_splits(file: Path) -> dict[str, dict[str, str]]:
    """{seed, or ALL: {picture id, file name or group: split}} of a CSV with one of two headers. Raises DataError."""
    found: dict[str, dict[str, str]] = {}
    try:
        if said := lacking(file):
            raise OSError(f"it {said}")
        with file.open(encoding="utf-8-sig", newline="") as handle:
            rows = csv.reader(handle)
            header = [field.strip() for field in next(rows, [])]
            if header not in (HEADER, OF_A_RUN):
                raise DataError(
                    f"{file}, line 1: the header is {','.join(header)!r}, {','.join(HEADER)!r} is needed, or "
                    f"{','.join(OF_A_RUN)!r} as a run writes it"
                )
            for row in rows:
                if row:
                    _add(found, [field.strip() for field in row], header, f"{file}, line {rows.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"splits.file={file} cannot be read ({error}); give a CSV of picture,split") from error
    return found or {ALL: {}}


def _add(found: dict[str, dict[str, str]], row: list[str], header: list[str], where: str) -> None:
    if len(row) != len(header) or not all(row[:-1]):
        raise DataError(f"{where}: found {','.join(row)!r}, a {' and its '.join(header[-2:])} are needed")
    *seed, name, split = row
    if split not in SPLITS:
        raise DataError(f"{where}: {header[-2]} {name} has the unknown split {split!r}; {choices(split, SPLITS)}")
    first = found.setdefault(seed[0] if seed else ALL, {}).setdefault(name, split)
    if first != split:
        raise DataError(f"{where}: {header[-2]} {name} is in the {split} split and, earlier, in {first}; keep one")


def _alike(pictures: Sequence[Picture], listed: Mapping[str, Mapping[str, str]], file: Path) -> dict[str, int]:
    """{group: fold} by the splits of a run's seeds. Raises DataError."""
    places: dict[str, tuple[str, ...]] = {}
    for picture in pictures:
        own = tuple(split[picture.group] for split in listed.values() if picture.group in split)
        if len(own) < len(listed):
            raise DataError(
                f"splits.file={file} does not list the group {picture.group} of the selected picture {picture.id} for "
                "every seed; it is the file of a run on other pictures, or with other splits.near_duplicates"
            )
        if "test" in own and set(own) != {"test"}:
            raise DataError(f"splits.file={file}: group {picture.group} is in the test split of some seeds only")
        places[picture.group] = own
    blocks = sorted({own for own in places.values() if "test" not in own})
    return {group: TEST if "test" in own else 1 + blocks.index(own) for group, own in places.items()}


def _groups(pictures: Sequence[Picture], listed: Mapping[str, str], file: Path) -> dict[str, str]:
    """{group: split}, or DataError where a picture is not listed or a group is in two splits."""
    split: dict[str, str] = {}
    first: dict[str, Picture] = {}
    for picture in pictures:
        own = listed.get(picture.id, listed.get(picture.path.name))
        if own is None:
            raise DataError(
                f"splits.file={file} does not list the selected picture {picture.id} ({picture.path.name}); "
                "add a row for it"
            )
        if split.setdefault(picture.group, own) != own:
            raise DataError(
                f"splits.file={file}: pictures {first[picture.group].id} ({split[picture.group]}) and {picture.id} "
                f"({own}) belong to one group but to two splits; fix the file, or accept near-duplicates on two sides "
                "with splits.near_duplicates=false"
            )
        first.setdefault(picture.group, picture)
    return split
