"""Attention knockout: which edges between spans are cut in which blocks. Knows no model; of labels only
which prompts are answered rightly.

Geva et al. 2023 (arXiv 2304.14767), Zhang et al. 2025 (arXiv 2411.18620): in a window of blocks around a centre, all
heads, the queries of one span may not read the keys of another; what that changes of the answer, against the centre,
shows where the information passes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mllm_probe.errors import ConfigError, ProbeError, choices
from mllm_probe.interventions.kinds import Sweepable
from mllm_probe.records.interventions import CUT, Condition, Intervention
from mllm_probe.records.sites import Anatomy
from mllm_probe.records.spans import BEHIND, IMAGE, ends_of
from mllm_probe.records.spans import LAST as LAST_TOKEN
from mllm_probe.results.effects import ABOVE, Sweep

if TYPE_CHECKING:
    from mllm_probe.interventions.workbench import Measuring

ANCHORS = FIRST, LAST = "first", "last"
WIDEST = 9  # blocks of a window, as published for models of 32


@dataclass(frozen=True)
class Knockout(Sweepable):
    """`edges` A->B: queries at B may not read keys at A, in all heads of a window of `window` blocks (null = 9, or a
    quarter of the blocks if that is less) around each of `centres` (null = every block).

    The window of k blocks around block c of n is max(1, c - floor(k/2)) to min(n, c + ceil(k/2) - 1). With `anchored`
    first it is blocks 1 to c, with last c to n. `above` lists layers K above which nothing reads the picture (null =
    all of them, [] = none). Each cut is compared with `random_draws` draws of as many edges, out of all causal edges of
    the rows behind the picture, in the same window.
    """

    edges: Sequence[str] = ("image->statement", "image->last", "statement->last", "image->behind")
    window: int | None = None
    anchored: str | None = None
    centres: Sequence[int] | None = None
    above: Sequence[int] | None = None
    random_draws: int = 10
    name: ClassVar[str] = "knockout"
    cuts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.spans:
            raise ConfigError(
                "intervention.edges and intervention.above are both empty, so nothing would be cut; name an edge, such "
                "as image->last"
            )
        if self.edges and self.centres is not None and not self.centres:
            raise ConfigError(
                "intervention.centres=[] names no block, so no edge would be cut; name blocks, null for all, or set "
                "intervention.edges=[]"
            )
        for edge in self.edges:
            source, span = ends_of(edge, "intervention.edges")
            if source == LAST_TOKEN or span == IMAGE:
                raise ConfigError(
                    f"intervention.edges names '{edge}', and in a causal model no token of '{span}' reads one of "
                    f"'{source}', so nothing would be cut; the arrow points from what is read to what reads it, as in "
                    "image->last"
                )
        if self.anchored is not None and self.anchored not in ANCHORS:
            raise ConfigError(
                f"intervention.anchored={self.anchored} is unknown; {choices(self.anchored, ANCHORS)}, or null"
            )
        if self.anchored is not None and self.window is not None:
            raise ConfigError(
                f"intervention.window={self.window} does not go with intervention.anchored={self.anchored}, whose "
                "windows end at the centre; set either to null"
            )
        if self.window is not None and self.window < 1:
            raise ConfigError(f"intervention.window={self.window} must be 1 or more, or null")
        if self.random_draws < 0:
            raise ConfigError(f"intervention.random_draws={self.random_draws} must be 0 or more")

    @property
    def spans(self) -> tuple[str, ...]:
        """Those that prompts must have."""
        cut = [end for edge in self.edges for end in ends_of(edge, "intervention.edges")]
        beyond = (IMAGE, BEHIND) if self.above is None or self.above else ()
        return tuple(dict.fromkeys((*cut, *beyond)))

    def check(self, anatomy: Anatomy) -> None:
        """Raises ConfigError for windows and layers that the model lacks."""
        blocks = anatomy.blocks["lm"]
        if self.window is not None and self.window > blocks:
            raise ConfigError(
                f"intervention.window={self.window} is out of range: the language model has {blocks} blocks"
            )
        for setting, given, low, high in (("centres", self.centres, 1, blocks), ("above", self.above, 0, blocks - 1)):
            if wrong := [layer for layer in given or () if not low <= layer <= high]:
                raise ConfigError(
                    f"intervention.{setting}={wrong[0]} is out of range: the language model has {blocks} blocks, give "
                    f"{low} to {high}"
                )

    def windows(self, blocks: int) -> dict[int, tuple[int, int]]:
        """{centre: first and last block}, counted from 1, both included."""
        centres = range(1, blocks + 1) if self.centres is None else self.centres
        return {centre: self._window(centre, blocks) for centre in centres}

    def _window(self, centre: int, blocks: int) -> tuple[int, int]:
        if self.anchored is not None:
            return (1, centre) if self.anchored == FIRST else (centre, blocks)
        width = max(1, min(WIDEST, blocks // 4)) if self.window is None else self.window
        return max(1, centre - width // 2), min(blocks, centre + (width + 1) // 2 - 1)

    def conditions(self, anatomy: Anatomy) -> Iterator[tuple[Condition, Intervention]]:
        """Every edge at every centre, then the picture cut off above every layer; behind each its random draws.

        Raises ConfigError.
        """
        self.check(anatomy)
        blocks = anatomy.blocks["lm"]
        for edge in self.edges:
            for centre, window in self.windows(blocks).items():
                yield from self._drawn(edge, edge, centre, window, blocks)
        for layer in range(blocks) if self.above is None else dict.fromkeys(self.above):
            yield from self._drawn(ABOVE, f"{IMAGE}->{BEHIND}", layer, (layer + 1, blocks), blocks)

    def _drawn(
        self, what: str, edge: str, layer: int, window: tuple[int, int], blocks: int
    ) -> Iterator[tuple[Condition, Intervention]]:
        source, span = ends_of(edge, "intervention.edges")
        for draw in range(self.random_draws + 1):
            yield (
                Condition(
                    kind=self.name,
                    what=what,
                    first=window[0],
                    last=window[1],
                    layer=layer,
                    depth=layer / blocks,
                    control="random" if draw else "",
                    draw=draw,
                ),
                Intervention(CUT, span, source=source, window=window, payload=draw or None),
            )

    def measured(self, own: "Measuring") -> tuple[Sweep, dict[str, Any]]:
        """Of the prompts that are answered rightly."""
        both = list(self.conditions(own.experiment.anatomy))
        own.tell(own.tested.samples, both)
        clean = own.clean(own.tested.samples)
        right, (_, groups) = own.right(clean), own.tested.of(clean.uids)
        if (pictures := len(set(groups[right].tolist()))) < own.least:
            raise ProbeError(
                f"the model answers {int(right.sum())} of {len(right)} prompts rightly, about {pictures} pictures, and "
                f"intervene.least={own.least} are needed: what is not answered cannot be disturbed; take a model that "
                "knows the answers, or more pictures"
            )
        kept = own.tested.kept(frozenset(uid for uid, known in zip(clean.uids, right, strict=True) if known))
        found = own.changed(kept.samples, both)
        return own.sweep(both, found), {"prompts": len(right), "answered_rightly": int(right.sum())}
