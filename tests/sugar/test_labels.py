"""Sugar's structure matrix against a double loop and tslearn."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from mllm_probe.config.tune import LabelSettings
from mllm_probe.data.documents import Document, Slice
from mllm_probe.errors import ConfigError, MllmProbeError, ProbeError
from mllm_probe.records.samples import Picture
from mllm_probe.sugar.labels import Prefix, SliceVectors, Structure, forced_share

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tslearn.metrics import gak


def document(number: int, pictures: int) -> Document:
    """A picture, a sentence about it, the next picture, ..."""
    slices = []
    for i in range(pictures):
        picture = Picture(f"{number}.{i}", Path("none.png"), f"d{number}.{i}")
        slices += [Slice(picture), Slice(picture, f"sentence {i} of {number}")]
    return Document(tuple(slices))


DOCUMENTS = [document(number, pictures) for number, pictures in enumerate((1, 2, 3, 2))]
SENTENCE_FIRST = Document(DOCUMENTS[1].slices[1:])
PREFIXES: list[Prefix] = [
    *((document, k) for document in DOCUMENTS for k in range(1, len(document.slices) + 1)),
    (SENTENCE_FIRST, 1),
    (SENTENCE_FIRST, 3),
]


def vectors(seed: int = 0, same: bool = False) -> SliceVectors:
    """Pictures 5 wide, sentences 3 wide, the joint space 4 wide; `same`: one block, for slices of all kinds."""
    rng = np.random.default_rng(seed)
    slices = {one.uid: one for document in DOCUMENTS for one in document.slices}
    n = len(slices)
    kinds = torch.tensor([int(one.text is not None) for one in slices.values()])
    a, b = torch.from_numpy(rng.normal(size=(n, 5))), torch.from_numpy(rng.normal(size=(n, 4)))
    a[kinds == 1, 3:] = 0
    return SliceVectors(tuple(slices), b if same else a.requires_grad_(), b, kinds)


def cosine(found: SliceVectors, x: Slice, y: Slice, joint_only: bool = False) -> float:
    i, j = found.uids.index(x.uid), found.uids.index(y.uid)
    same = (x.text is None) == (y.text is None) and not joint_only
    u, v = (found.a if same else found.b)[[i, j]].detach().numpy()
    return float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))


def aligned(found: SliceVectors, x: list[Slice], y: list[Slice], deltas: dict[str, float], lengths: int) -> float:
    """K with the width of two sequences of `lengths` slices together, cell by cell."""
    grid = np.zeros((len(x) + 1, len(y) + 1))
    grid[0, 0] = 1
    for i, one in enumerate(x, 1):
        for j, other in enumerate(y, 1):
            names = sorted("picture" if each.text is None else "sentence" for each in (one, other))
            sigma = deltas["-".join(names)] * math.sqrt(lengths / 2)
            s = math.exp(-2 * (1 - cosine(found, one, other)) / (2 * sigma**2))
            grid[i, j] = s / (2 - s) * (grid[i - 1, j] + grid[i, j - 1] + grid[i - 1, j - 1])
    return float(grid[-1, -1])


def label(found: SliceVectors, settings: LabelSettings, deltas: dict[str, float], i: int, j: int) -> float:
    """What the paper says of one pair."""
    (one, k), (other, m) = PREFIXES[i], PREFIXES[j]
    x, y = list(one.slices[:k]), list(other.slices[:m])
    if settings.forced and one.uid == other.uid:
        return 1.0
    if settings.kernel == "average":
        return float(np.mean([cosine(found, p, q) for p in x for q in y]))
    if k == m == 1 and settings.single == "cosine":
        return cosine(found, x[0], y[0])
    raw = aligned(found, x, y, deltas, k + m)
    home = aligned(found, x, x, deltas, k + m) * aligned(found, y, y, deltas, k + m)
    return raw / math.sqrt(home) if settings.normalised else raw


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"delta": 0.7},
        {"forced": False},
        {"kernel": "average", "forced": False},
        {"single": "kernel", "forced": False},
        {"normalised": False},
    ],
    ids=str,
)
def test_the_matrix_is_that_of_a_double_loop(changed: dict[str, object]) -> None:
    found, settings = vectors(), LabelSettings(**changed)  # type: ignore[arg-type]
    structure = Structure(found, settings)
    expected = [
        [label(found, settings, structure.deltas, i, j) for j in range(len(PREFIXES))] for i in range(len(PREFIXES))
    ]
    matrix = structure.matrix(PREFIXES)
    assert matrix.dtype == torch.float32 and not matrix.requires_grad
    np.testing.assert_allclose(matrix, expected, rtol=1e-5, atol=1e-6)


def test_over_one_block_it_is_tslearns_kernel() -> None:
    found = vectors(same=True)
    matrix = Structure(found, LabelSettings(delta=0.6, forced=False, single="kernel")).matrix(PREFIXES)

    def unit(prefix: Prefix) -> np.ndarray:
        rows = found.b[[found.uids.index(one.uid) for one in prefix[0].slices[: prefix[1]]]]
        return torch.nn.functional.normalize(rows, dim=1).numpy()

    for i, x in enumerate(PREFIXES):
        for j, y in enumerate(PREFIXES):
            sigma = 0.6 * math.sqrt((x[1] + y[1]) / 2)
            assert matrix[i, j].item() == pytest.approx(gak(unit(x), unit(y), sigma=sigma), rel=1e-5, abs=1e-7)


def test_joint_only_looks_at_the_joint_space_alone() -> None:
    found, block = vectors(), vectors(same=True)
    only, plain = LabelSettings(joint_only=True), LabelSettings()
    torch.testing.assert_close(Structure(found, only).matrix(PREFIXES), Structure(block, plain).matrix(PREFIXES))
    assert not torch.allclose(Structure(found, plain).matrix(PREFIXES), Structure(found, only).matrix(PREFIXES))


def test_single_slices_are_compared_by_one_block() -> None:
    """Section 3.2: within a modality by its own encoder, across by the joint one; the matrix need not be positive."""
    first, second, third = (Document((one,)) for one in (*DOCUMENTS[2].slices[0:4:2], DOCUMENTS[2].slices[1]))
    uids = tuple(each.slices[0].uid for each in (first, second, third))
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    b = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    gram = Structure(SliceVectors(uids, a, b, torch.tensor([0, 0, 1])), LabelSettings()).matrix(
        [(first, 1), (second, 1), (third, 1)]
    )
    torch.testing.assert_close(gram, torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]))
    assert torch.linalg.eigvalsh(gram).min().item() == pytest.approx(1 - math.sqrt(2), abs=1e-6)


def test_delta_is_the_median_distance_of_train_slices_of_a_pair_type() -> None:
    found = vectors()
    slices = [one for document in DOCUMENTS[1:3] for one in document.slices]
    distances: dict[str, list[float]] = {}
    for i, x in enumerate(slices):
        for y in slices[:i]:
            name = "-".join(sorted("picture" if each.text is None else "sentence" for each in (x, y)))
            distances.setdefault(name, []).append(math.sqrt(2 - 2 * cosine(found, x, y)))
    deltas = Structure(found, LabelSettings(), [one.uid for one in slices]).deltas
    for name, values in distances.items():
        assert deltas[name] == pytest.approx(np.quantile(values, 0.5, method="lower"))
    lone = Structure(found, LabelSettings(), [slices[0].uid, slices[1].uid]).deltas
    assert lone["picture-picture"] == lone["sentence-sentence"] == pytest.approx(0.7), "no pair to take it of"


def test_only_prefixes_of_one_document_are_forced() -> None:
    owners = [document.uid for document, _ in PREFIXES]
    forced, free = (Structure(vectors(), LabelSettings(forced=on)).matrix(PREFIXES) for on in (True, False))
    same = torch.tensor([[one == other for other in owners] for one in owners])
    assert (forced[same] == 1).all() and not torch.allclose(forced, free)
    torch.testing.assert_close(forced[~same], free[~same], rtol=0, atol=0)
    pairs = len(PREFIXES) * (len(PREFIXES) - 1)
    assert forced_share(PREFIXES) == (int(same.sum()) - len(PREFIXES)) / pairs
    assert math.isnan(forced_share(PREFIXES[:1]))


def refused(message: str, error: type[MllmProbeError], call: object) -> None:
    with pytest.raises(error, match=message):
        call()  # type: ignore[operator]


def test_what_cannot_be_a_label_is_one_sentence() -> None:
    found = vectors()
    structure = Structure(found, LabelSettings())
    refused(
        "a prefix of 0 slices of a document of 2 has no label",
        ProbeError,
        lambda: structure.matrix([(DOCUMENTS[0], 0)]),
    )
    refused("a prefix of 3 slices of a document of 2", ProbeError, lambda: structure.matrix([(DOCUMENTS[0], 3)]))
    refused("has no vector; give those of all", ProbeError, lambda: structure.matrix([(document(9, 1), 1)]))
    zero = found.b.clone()
    zero[3] = 0
    refused(
        "1 of 16 slices have vectors of zeros", ProbeError, lambda: SliceVectors(found.uids, found.a, zero, found.kinds)
    )
    refused(
        "16 slices .* have 15 and 16", ProbeError, lambda: SliceVectors(found.uids, found.a[1:], found.b, found.kinds)
    )
    for changed, message in (
        ({"delta": 0.0}, "labels.delta=0.0 must be above 0, or null"),
        ({"kernel": "gack"}, "labels.kernel=gack is unknown; did you mean 'gak'"),
        ({"single": "x"}, "labels.single=x is unknown"),
    ):
        refused(message, ConfigError, lambda changed=changed: Structure(found, LabelSettings(**changed)))
