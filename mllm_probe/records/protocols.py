"""What the rooms expect of each other: the few methods a model, a data set, a task, a probe or a reporter has.

Anything with these methods fits; nothing has to inherit. Letters in shapes as in `types`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from mllm_probe.records.batches import Batch
from mllm_probe.records.problems import LayerData, Problem
from mllm_probe.records.samples import Collection, Examples, Picture, Sample
from mllm_probe.records.sites import Anatomy, Key, Site

if TYPE_CHECKING:
    import torch

    from mllm_probe.records.grids import Grid
    from mllm_probe.records.interventions import Intervention, Outcomes, Pass


class Extractable(Protocol):
    """A loaded model as `extract` sees it."""

    anatomy: Anatomy

    def collate(
        self, samples: Sequence[Sample], keys: Sequence[Key], shared: bool = False, owners: frozenset[str] | None = None
    ) -> Batch:
        """Samples -> one batch on the CPU; may be called from several threads. Raises SpanError, DataError.

        `shared` packs neighbours that begin alike behind one head; keys of the row space `prefix` are read for the
        samples in `owners` alone (None = for all).
        """

    def module(self, site: Site) -> tuple["torch.nn.Module", bool]:
        """The module to hook and whether its output (True) or its input (False) is the site's state."""

    def forward(self, batch: Batch) -> None:
        """Run the model for its hooks; nothing is returned and no logits are computed."""

    def answers(self, key: Key, states: "torch.Tensor") -> "torch.Tensor":
        """States [T, D] of the key's site -> the logits [T, words] of its answer position."""

    def unshared(self, longest: int) -> str | None:
        """Why prompts of up to `longest` tokens cannot share a head in this model, None where it should work."""

    def provenance(self) -> dict[str, Any]:
        """What was really loaded: device, dtypes, quantised modules, versions."""


class Intervenable(Protocol):
    """A loaded model whose states and attention can be changed."""

    anatomy: Anatomy
    plain: str | None  # why every intervention is a full pass; None where tails suffice

    def passes(self, samples: Sequence[Sample], interventions: "Sequence[Intervention]") -> "Iterator[Pass]":
        """Prompts [N], those about one picture side by side: first all of them without intervention, then under each,
        in any order. Raises ModelError, SpanError."""

    def outcomes(self, samples: Sequence[Sample], interventions: "Sequence[Intervention]") -> "Outcomes":
        """What the model answers to them. Raises ModelError, SpanError."""

    def gradients(self, samples: Sequence[Sample], sites: Sequence[Site], span: str) -> Mapping[Site, "torch.Tensor"]:
        """{site: [N, D] float32}: the derivative of d (see Outcomes) by the states of a site, summed over a span."""


class Dataset(Protocol):
    """Pictures and annotations, from wherever they are. A method `labels` beside these, which tells (row, label)
    of those selected without a picture, or None, lets a task go by them before a picture is opened."""

    @property
    def name(self) -> str: ...

    def load(self, outputs: Path, selection: Any, digests: Any) -> Collection:
        """The selected pictures, checked to decode. Raises DataError."""


class Task(Protocol):
    """A question about pictures. A `kind` beside these, that of its labels (see Problem), or a method `kind_of` that
    tells it of the labels of a data set, lets a probe that cannot fit them be refused before a picture is opened."""

    @property
    def name(self) -> str: ...

    @property
    def template(self) -> str: ...

    def examples(self, collection: Collection, folds: Any) -> Examples:
        """Samples and decisions, balanced within every fold. Raises DataError."""


@runtime_checkable
class Picking(Protocol):
    """A task that picks the picture tokens which are read; its decisions hold no label, masks tell what tokens show."""

    def picked(
        self,
        examples: Examples,
        pictures: Mapping[str, Picture],
        grid_of: "Callable[[Picture], Grid]",
        covered: Callable[[Picture], np.ndarray],
        room: int,
    ) -> tuple[Examples, str]:
        """The samples with the tokens that are read of each, and the position that reads them; `pictures` {digest: it}.
        `covered` tells which picture tokens [T] bool some object covers by half; at most about `room` tokens in all."""


class Fit(Protocol):
    """A probe's frozen result; `facts` holds at least `converged`."""

    @property
    def facts(self) -> Mapping[str, float]: ...

    def __call__(self, data: LayerData) -> np.ndarray:
        """Logits [N] (positive means label 1) or [N, C], or predicted numbers [N]."""

    def arrays(self) -> dict[str, np.ndarray]:
        """What to keep in probes.safetensors."""


class Probe(Protocol):
    """A fitter: hyper-parameters in the constructor, data only in `fit`."""

    @property
    def name(self) -> str: ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of problem it can solve."""

    @property
    def reads(self) -> str:
        """`vector`: one row a decision; `tokens`: the rows of all tokens of a span; `pairs`: contrast pairs."""

    @property
    def log_odds(self) -> bool:
        """Whether its outputs are log-odds, so that they have a log loss, bits and a calibration."""

    def fit(self, data: LayerData, problems: Sequence[Problem]) -> Sequence[Fit]:
        """One fit per problem; all problems of a layer come at once, so that they can share work. Raises ProbeError."""


class Feature(Protocol):
    """What probes are given of a picture tower: its layers one by one, or several as one feature."""

    @property
    def name(self) -> str: ...

    def arms(self, blocks: int, final: int | None) -> Any:
        """An integration of the layers of a vision tower of so many blocks (0: there is none), of which the model's own
        connector reads layer `final` (None: unknown), and what it is held against, as `features.controls.Arms` has it.

        None for single layers. Raises ConfigError.
        """


class Reporter(Protocol):
    """Where a stage says how it is getting on; the one in `report` draws bars, tests use a silent one."""

    def note(self, text: str) -> None:
        """One line worth keeping."""

    def progress(self, stage: str, done: int, total: int, unit: str) -> None: ...
