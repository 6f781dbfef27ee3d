"""How many bits it takes to send the labels with a probe that learns as it goes: the online code, and what follows.

L_online of Voita and Titov 2020: the first block of labels is sent by a uniform code, each next block by a probe fitted
on all blocks before it. Fits nothing itself: it says where blocks end, and adds up the losses that a caller measured.
Letters: N rows, S blocks with ends t_1 < ... < t_S = N, K classes. All losses are in bits.
"""

from dataclasses import dataclass

import numpy as np

from mllm_probe.errors import ProbeError

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)  # of the released code
FLOOR = 64  # rows of the first block at least: the released fractions are of 40,000 rows, most here have fewer


@dataclass(frozen=True)
class Blocks:
    """`order` [N]: rows as they are sent, picture by picture; `ends` [S]: how many are known after each block."""

    order: np.ndarray
    ends: np.ndarray


def blocks(groups: np.ndarray, seed: int = 0, fractions: tuple[float, ...] = FRACTIONS, floor: int = FLOOR) -> Blocks:
    """Cut rows with picture ids `groups` [N] into blocks: pictures are shuffled once and never cut.

    A block ends at the first end of a picture at or after fraction x N, and not before `floor` rows; ends that fall
    together count once. Raises ProbeError where fewer than two blocks are left, or for fractions not within (0, 1].
    """
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise ProbeError(f"fractions={fractions} must be above 0 and at most 1")
    names, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    turn = np.random.default_rng(seed).permutation(len(names))
    order = np.argsort(np.argsort(turn)[member], kind="stable")
    stops, n = np.cumsum(sizes[turn]), len(member)
    wanted = np.minimum(np.maximum(np.ceil(np.asarray([*fractions, 1.0]) * n - 1e-9), floor), n)
    ends = np.unique(stops[np.searchsorted(stops, wanted)]) if n else stops
    if len(ends) < 2:
        raise ProbeError(f"{n} rows of {len(names)} pictures make no two blocks with a first block of {floor} or more")
    return Blocks(order, ends)


@dataclass(frozen=True)
class Code:
    """Bits of the online code; compression = N log2 K / bits, 1 for a probe that never learns.

    `data_bits` is the loss of the probe fitted on all N rows on those rows, `model_bits` the rest: what learning cost.
    """

    bits: float
    compression: float
    data_bits: float
    model_bits: float


def online_code(losses: np.ndarray, ends: np.ndarray, classes: int, final: float) -> Code:
    """losses [S - 1]: summed bits of blocks 2..S, each under the probe fitted on the blocks before; ends [S].

    `final`: summed bits of all N rows under the probe fitted on all of them. bits = t_1 log2 K + sum of losses.
    Raises ProbeError for shapes, losses that are no bits, ends that do not rise, fewer than 2 classes.
    """
    losses, ends = _checked(losses, ends, classes)
    if not 0 <= final < np.inf:
        raise ProbeError(f"final={final} must be the bits of all rows, 0 or more")
    bits = float(ends[0] * np.log2(classes) + losses.sum())
    return Code(bits, float(ends[-1] * np.log2(classes) / max(bits, 1e-300)), float(final), bits - float(final))


def loss_curve(losses: np.ndarray, ends: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The loss-data curve: rows known [S] from 0 on, and mean bits a row of the block sent then [S] (first: log2 K)."""
    losses, ends = _checked(losses, ends, classes)
    return np.append(0, ends[:-1]), np.append(np.log2(classes), losses / np.diff(ends))


@dataclass(frozen=True)
class Surplus:
    """Bits beyond the threshold; `rows` is how many had to be known to reach it, None where it was never reached.

    Where it was not reached the true surplus is larger: `bits` is then what was paid within these rows.
    """

    bits: float
    rows: int | None


def surplus(losses: np.ndarray, ends: np.ndarray, classes: int, threshold: float) -> Surplus:
    """Surplus description length and sample complexity at `threshold` bits a row (Whitney et al. 2020).

    sum over rows of max(loss(rows known before) - threshold, 0), the loss-data curve taken as constant in a block;
    `rows` is the least number of known rows with a loss of at most the threshold. Raises ProbeError as `online_code`.
    """
    if not threshold >= 0:
        raise ProbeError(f"threshold={threshold} must be 0 bits or more")
    known, loss = loss_curve(losses, ends, classes)
    reached = np.flatnonzero(loss <= threshold)
    bits = float((np.maximum(loss - threshold, 0) * np.diff(ends, prepend=0)).sum())
    return Surplus(bits, int(known[reached[0]]) if len(reached) else None)


def _checked(losses: np.ndarray, ends: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    losses, ends = np.asarray(losses, np.float64), np.asarray(ends)
    if losses.ndim != 1 or ends.shape != (len(losses) + 1,):
        raise ProbeError(
            f"losses {losses.shape} and ends {ends.shape} do not fit: every block but the first has a loss"
        )
    if not (np.diff(ends, prepend=0) > 0).all():
        raise ProbeError(f"ends={ends.tolist()} must rise from above 0")
    bad = int((~(np.isfinite(losses) & (losses >= 0))).sum())
    if bad:
        raise ProbeError(f"{bad} of {len(losses)} block losses are not finite bits of 0 or more")
    if classes < 2:
        raise ProbeError(f"classes={classes} must be at least 2: one label needs no code")
    return losses, ends
