"""The structure matrix that Sugar's hidden states are to reproduce (Chow et al. 2024, section 3).

    M^l_ij = 1                         prefixes i and j come from one document
             the cosine of the slices  both prefixes are single slices
             K(x_i, x_j)               otherwise: the alignment kernel over the Triple Kernel's distances

The prefix (document, k) is its first k slices. What the paper leaves open is a setting (`LabelSettings`). Knows vectors
of frozen encoders, not the encoders. Letters: n slices or prefixes, U different slices of the prefixes, D and E widths.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mllm_probe.config.tune import AVERAGE, COSINE, KERNELS, SINGLES, LabelSettings
from mllm_probe.data.documents import Document
from mllm_probe.errors import ConfigError, ProbeError, choices
from mllm_probe.sugar.pairwise import Tabled, similarities

Prefix = tuple[Document, int]
PICTURE, SENTENCE = 0, 1
PAIRS = ("picture-picture", "picture-sentence", "sentence-sentence")  # by the sum of the kinds
DELTA = 0.7  # where no two different slices of a pair type are there to take the median of
MOST = 1000  # slices of a kind between which the median is taken


def check_labels(settings: LabelSettings) -> None:
    """What needs no file. Raises ConfigError."""
    for name, value, allowed in (("kernel", settings.kernel, KERNELS), ("single", settings.single, SINGLES)):
        if value not in allowed:
            raise ConfigError(f"labels.{name}={value} is unknown; {choices(value, allowed)}")
    if settings.delta is not None and not settings.delta > 0:
        raise ConfigError(f"labels.delta={settings.delta} must be above 0, or null for the median distance of slices")


@dataclass(frozen=True)
class SliceVectors:
    """What frozen encoders make of the slices `uids` [n]: `a` [n, D] compares slices of one kind, `b` [n, E] those of
    different kinds; `kinds` [n] says PICTURE or SENTENCE. Where pictures and sentences differ in width, the narrower
    rows of `a` end in zeros. Raises ProbeError."""

    uids: tuple[str, ...]
    a: Tensor
    b: Tensor
    kinds: Tensor

    def __post_init__(self) -> None:
        n = len(self.uids)
        if {len(self.a), len(self.b), len(self.kinds), len(set(self.uids))} != {n}:
            raise ProbeError(
                f"{n} slices ({len(set(self.uids))} different ones) have {len(self.a)} and {len(self.b)} vectors and "
                f"{len(self.kinds)} kinds; every slice needs one of each, and must be there once"
            )
        for vectors in (self.a, self.b):
            lengths = vectors.norm(dim=1)
            if bad := int((~torch.isfinite(lengths) | (lengths == 0)).sum()):
                raise ProbeError(
                    f"{bad} of {n} slices have vectors of zeros or of no numbers, which have no direction; "
                    "leave them out or choose another encoder"
                )

    def cosines(self, rows: Tensor, joint_only: bool = False) -> Tensor:
        """Between the slices `rows` [U], by the block that their kinds ask for: [U, U] float64."""
        a, b = (normalize(vectors[rows].double(), dim=1) for vectors in (self.a, self.b))
        kinds = self.kinds[rows]
        same = (kinds[:, None] == kinds) & (not joint_only)
        return torch.where(same, a @ a.T, b @ b.T)


class Structure:
    """M^l of prefixes over the slices of `vectors`. The median distances are taken over the slices `train` (None: all).

    Raises ConfigError, ProbeError.
    """

    def __init__(self, vectors: SliceVectors, settings: LabelSettings, train: Collection[str] | None = None) -> None:
        check_labels(settings)
        self._vectors, self._settings = vectors, settings
        self._row = {uid: row for row, uid in enumerate(vectors.uids)}
        self._deltas = self._medians(vectors.uids if train is None else train)

    @property
    def deltas(self) -> dict[str, float]:
        """{pair type: delta}."""
        return dict(zip(PAIRS, self._deltas.tolist(), strict=True))

    def matrix(self, prefixes: Sequence[Prefix]) -> Tensor:
        """[n, n] float32 on the CPU, symmetric, without a gradient. Raises ProbeError."""
        with torch.no_grad():
            whole = self._similarities(prefixes)
        if self._settings.forced:
            whole = whole.masked_fill(same_document(prefixes), 1)
        return whole.float()

    def _similarities(self, prefixes: Sequence[Prefix]) -> Tensor:
        rows, lengths = self._rows(prefixes)
        used, where = torch.unique(rows, return_inverse=True)
        settings, kinds = self._settings, self._vectors.kinds[used]
        cosine = self._vectors.cosines(used, settings.joint_only)
        if settings.kernel == AVERAGE:
            real = torch.arange(rows.shape[1]) < lengths[:, None]
            share = cosine.new_zeros(len(rows), len(used)).scatter_add(1, where, (real / lengths[:, None]).double())
            return share @ cosine @ share.T
        delta = self._deltas[kinds[:, None] + kinds]
        distance = 2 * (1 - cosine).clamp(min=0) / delta**2
        tables = Tabled(where, lengths, cosine, distance)
        return similarities(tables, 1.0, settings.single == COSINE, settings.normalised)

    def _rows(self, prefixes: Sequence[Prefix]) -> tuple[Tensor, Tensor]:
        """Of the slices, filled up with each prefix's first one, and how many are real: [n, L] and [n]."""
        for document, k in prefixes:
            if not 1 <= k <= len(document.slices):
                raise ProbeError(
                    f"a prefix of {k} slices of a document of {len(document.slices)} has no label; take 1 to "
                    f"{len(document.slices)} slices"
                )
        most = max(k for _, k in prefixes)
        found = [
            self._find([one.uid for one in (*document.slices[:k], *document.slices[:1] * (most - k))])
            for document, k in prefixes
        ]
        return torch.stack(found), torch.tensor([k for _, k in prefixes])

    def _find(self, uids: Collection[str]) -> Tensor:
        if absent := [uid for uid in uids if uid not in self._row]:
            raise ProbeError(f"slice {absent[0]} has no vector; give those of all slices of all documents")
        return torch.tensor([self._row[uid] for uid in uids], dtype=torch.long)

    def _medians(self, train: Collection[str]) -> Tensor:
        """[3] float64, by the sum of the kinds: what is set, else the median of ||x - y|| = sqrt(phi) over pairs of
        slices that differ, else DELTA. Of many slices a kind, MOST that lie evenly among them."""
        if self._settings.delta is not None:
            return torch.full((3,), self._settings.delta, dtype=torch.float64)
        rows = self._find(dict.fromkeys(train))
        kinds = self._vectors.kinds[rows]
        rows = torch.cat([_evenly(rows[kinds == kind]) for kind in (PICTURE, SENTENCE)])
        kinds = self._vectors.kinds[rows]
        phi = 2 * (1 - self._vectors.cosines(rows, self._settings.joint_only))
        apart = torch.triu(phi > 1e-9, 1)
        types = kinds[:, None] + kinds
        found = [phi[apart & (types == pair)].clamp(min=0).sqrt() for pair in range(len(PAIRS))]
        return torch.stack([one.median() if len(one) else torch.tensor(DELTA).double() for one in found])


def same_document(prefixes: Sequence[Prefix]) -> Tensor:
    """Whether two prefixes come from one document: [n, n] bool."""
    numbers: dict[str, int] = {}
    owners = torch.tensor([numbers.setdefault(document.uid, len(numbers)) for document, _ in prefixes])
    return owners[:, None] == owners


def forced_share(prefixes: Sequence[Prefix]) -> float:
    """Of the pairs of two different prefixes, how many come from one document; nan where there is no pair."""
    same, n = same_document(prefixes), len(prefixes)
    return (int(same.sum()) - n) / (n * (n - 1)) if n > 1 else float("nan")


def _evenly(rows: Tensor) -> Tensor:
    return rows if len(rows) <= MOST else rows[torch.linspace(0, len(rows) - 1, MOST).long()]
