"""From the rows of every key to the rows of geometry.csv, one measure at a time. Joins the cache, the measures and the
probe; knows no file of a run.

Layers are read again for each measure, so that the pieces of one measure for one position are all that is in memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mllm_probe.config.geometry import GeometrySettings
from mllm_probe.errors import ConfigError, ProbeError
from mllm_probe.experiment.experiment import Experiment, filled
from mllm_probe.fitting.readout import Source
from mllm_probe.geometry.dimension import SHAPES, matrix_entropy, two_nn
from mllm_probe.geometry.row_checks import check_finite, is_constant, prepared
from mllm_probe.geometry.similarity import SIMILARITIES, Comparison, Measure, compare_layers, similarity
from mllm_probe.geometry.transfer import transfer
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.sites import Key
from mllm_probe.results.geometry import Relation

TRANSFER = "transfer"
MEASURES = (*SIMILARITIES, TRANSFER, *SHAPES)
NONE = float("nan")
T = TypeVar("T")
Tick = Callable[[], None]


@dataclass(frozen=True)
class Block:
    """The layers `a` against the layers `b`; within one position these are the same tuple."""

    position: str
    a: tuple[Key, ...]
    b: tuple[Key, ...]

    @property
    def within(self) -> bool:
        return self.a is self.b


class Atlas:
    """All layers asked for, by position, on the rows of `samples` (uids, one a picture).

    Raises ConfigError, CacheError.
    """

    def __init__(
        self,
        experiment: Experiment,
        settings: GeometrySettings,
        samples: Sequence[str],
        reporter: Reporter,
    ) -> None:
        self._experiment, self._settings, self._samples, self._reporter = experiment, settings, samples, reporter
        self._blocks = _blocks(experiment, settings)
        self._coverage = filled(experiment)
        self._noted: set[str] = set()
        self._run = experiment.run

    def relations(self, name: str) -> list[Relation]:
        """All rows of one measure. Raises ProbeError where a layer holds values that are not finite."""
        if name in SHAPES:
            return self._shapes(name)
        compare = self._transfer if name == TRANSFER else self._similarity
        tick, found = self._ticker(name), []
        for block in self._blocks:
            comparison, n = compare(name, block, tick)
            tables = (comparison.value, comparison.null_mean, comparison.null_high)
            found += [
                self._relation(
                    name, block.position, a, str(b.site), n, *(float(table[row, column]) for table in tables)
                )
                for row, a in enumerate(block.a)
                for column, b in enumerate(block.b)
            ]
        return found

    def _similarity(self, name: str, block: Block, tick: Tick) -> tuple[Comparison, int]:
        """Constant layers keep their place in the tables, as nan."""
        settings = self._settings
        measure = similarity(name, settings.k, settings.components)
        a = self._pieces(name, measure, block.a, tick)
        b = a if block.within else self._pieces(name, measure, block.b, tick)
        tables = np.full((3, len(block.a), len(block.b)), np.nan)
        if a and b:
            left = list(a.values())
            right = left if block.within else list(b.values())
            found = compare_layers(measure, left, right, settings.permutations, settings.seed, tick)
            for table, part in zip(tables, (found.value, found.null_mean, found.null_high), strict=True):
                table[np.ix_(list(a), list(b))] = part
        return Comparison(*tables), len(self._samples)

    def _pieces(self, name: str, measure: Measure, keys: Sequence[Key], tick: Tick) -> dict[int, np.ndarray]:
        """{place in `keys`: piece} of the layers that have one."""
        found = {}
        for place, key in enumerate(keys):
            if (piece := self._measured(name, key, measure.piece)) is not None:
                found[place] = piece
            tick()
        most = self._settings.components
        if name == "svcca" and (full := sum(piece.shape[1] == most for piece in found.values())):
            self._note(
                f"svcca: {full} of the layers at {keys[0].position} kept {most} components (geometry.components)"
            )
        return found

    def _transfer(self, _: str, block: Block, tick: Tick) -> tuple[Comparison, int]:
        widths = {key.site.tower: self._experiment.anatomy.widths[key.site.tower] for key in (*block.a, *block.b)}
        if len(set(widths.values())) > 1:
            named = ", ".join(f"{tower} {width}" for tower, width in widths.items())
            self._note(f"transfer at {block.position}: cells between layers of different width are empty ({named})")
        source = Source(self._experiment, self._coverage)
        if any(source.headed(key.position) for key in (*block.a, *block.b)):
            self._note(f"transfer at {block.position}: each category has an output of its own, so its cells are empty")
        found, settings = transfer(self._experiment, self._coverage, block.a, block.b, tick), self._settings
        try:
            return found.compared(settings.permutations, settings.seed), len(found.y)
        except ProbeError as error:
            self._note(f"transfer at {block.position} has no null: {error}")
            return found.compared(0, settings.seed), len(found.y)

    def _shapes(self, name: str) -> list[Relation]:
        """Each layer of each position alone; there is no null, since no shuffle of the rows changes it."""
        tick, found = self._ticker(name), []
        for block in self._blocks:
            for key in block.a if block.within else ():
                value, n = self._shape(name, key)
                found.append(self._relation(name, block.position, key, "", n, value))
                tick()
        return found

    def _shape(self, name: str, key: Key) -> tuple[float, int]:
        """The value, nan where there is none, and the rows it was measured on."""
        if name == "entropy":
            entropy = self._measured(name, key, matrix_entropy)
            return NONE if entropy is None else entropy, len(self._samples)
        dimension = self._measured(name, key, two_nn)
        if dimension is None:
            return NONE, len(self._samples)
        if dimension.repeats:
            total = dimension.rows + dimension.repeats
            self._note(f"{name} of {key}: {dimension.repeats} of {total} rows repeat others and are left out")
        return dimension.value, dimension.rows

    def _measured(self, name: str, key: Key, function: Callable[[np.ndarray], T]) -> T | None:
        """What `function` makes of the rows of a key; None, and a note, where it has no value for them."""
        values = self._rows(key)
        if is_constant(values):
            self._note(f"{key}: the same row for all {len(values)} pictures, so its cells are empty")
            return None
        try:
            return function(prepared(values, self._settings.clip, self._settings.standardise))
        except ProbeError as error:
            self._note(f"{name} of {key} is left empty: {error}")
            return None

    def _rows(self, key: Key) -> np.ndarray:
        """[N, D] float64: a sample's first row where the position has several."""
        values, bounds = self._experiment.store.read(key, self._samples, self._coverage)
        rows = values[bounds[:-1]].double().numpy()
        check_finite(rows, str(key))
        return rows

    def _relation(
        self, name: str, position: str, a: Key, b: str, n: int, value: float, mean: float = NONE, high: float = NONE
    ) -> Relation:
        cache, model = self._experiment.identity.digest, self._experiment.model.label
        return Relation(self._run, cache, model, name, position, str(a.site), b, value, mean, high, n)

    def _note(self, text: str) -> None:
        """Once."""
        if text not in self._noted:
            self._noted.add(text)
            self._reporter.note(text)

    def _ticker(self, name: str) -> Tick:
        """Counts layers read and shuffles done."""
        done = 0
        total = sum(self._steps(name, block) for block in self._blocks)

        def tick() -> None:
            nonlocal done
            done += 1
            self._reporter.progress(f"geometry {name}", done, total, "steps")

        return tick

    def _steps(self, name: str, block: Block) -> int:
        if name in SHAPES:
            return len(block.a) * block.within
        if name == TRANSFER:
            return len(block.a) + len(block.b)
        return len(block.a) + len(block.b) * (not block.within) + self._settings.permutations


def _blocks(experiment: Experiment, settings: GeometrySettings) -> list[Block]:
    """Each position against itself, in the order of the config, then the pairs of geometry.across."""
    found = {p: tuple(key for key in experiment.keys if key.position == p) for p in experiment.extract.positions}
    keys = {position: group for position, group in found.items() if group}
    for position in (position for pair in settings.across for position in pair):
        if position not in keys:
            raise ConfigError(f"geometry.across names position {position}, which none of the requested layers has")
    across = [Block(f"{p} x {q}", keys[p], keys[q]) for p, q in settings.across]
    return [*(Block(position, group, group) for position, group in keys.items()), *across]
