"""Where unsolved problems stand on their way to the optimum, and the next step of each. See solver.py.

Letters in shapes: P problems, C outputs, n rows, D width.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import torch

from mllm_probe.probes.solving.objectives import (
    STEPS,
    Turning,
    Work,
    affordable,
    conjugate_gradients,
    inverse_blocks,
)
from mllm_probe.probes.solving.standardised import Basis, Features

GAP = 1e-6
MEMORY = 12  # steps that the curvature estimate remembers
NEWTON_COPIES = 4  # of the features in float64: as they are, with a problem's factor, centred, with its rows' weights
TRIED = 20  # conjugate gradients that a sure way is spared for, more with many columns
BLOCKS = 256  # columns up to which the curvature of each output is worth its matrix
SLOW = 0.1  # share of the residuals' sums that is left after a step of the intercepts, where their curvature is too old
CENTRING = 60  # steps of the intercept at most; three or four is common
ROUNDINGS = 16  # of the precision, in each product of the features with residuals


@dataclass(frozen=True)
class Solution:
    """weights [P, C, D] for standardised features, intercept [P, C], logits [P, C, n] of all rows, and per problem
    the objective, the Euclidean norm of the gradient, the certified gap to the optimum as a share of what can be
    learnt, how far the weights may be from the optimum's (Euclidean, certified; `radius`), how far rounding may have
    taken the intercept from the best one for the weights (`drift`), and the steps."""

    weights: torch.Tensor
    intercept: torch.Tensor
    logits: torch.Tensor
    objective: torch.Tensor
    gradient: torch.Tensor
    gap: torch.Tensor
    radius: torch.Tensor
    drift: torch.Tensor
    steps: torch.Tensor

    @property
    def converged(self) -> torch.Tensor:
        return self.gap <= GAP

    def pick(self, index: torch.Tensor | slice) -> "Solution":
        return Solution(*(part[index] for part in vars(self).values()))


class Iterates:
    """Where the unsolved problems of a batch stand, intercepts at their best, and what they remember of their steps."""

    def __init__(self, features: Features, basis: Basis, work: Work, weights: torch.Tensor) -> None:
        self._features, self._basis, self._work = features, basis, work
        self._memory: list[tuple[torch.Tensor, ...]] = []
        self._w, self._b = torch.zeros_like(weights), work.loss.constant(work.target, work.weight)
        self._z = self._b[:, :, None].expand_as(work.target)
        self._see_level()
        self._hard = torch.zeros(len(weights), dtype=torch.bool, device=weights.device)
        rms = (work.target.square() * work.weight[:, None]).sum((1, 2)).sqrt()
        self._rounds = ROUNDINGS * torch.finfo(weights.dtype).eps * (torch.ones_like(rms) if work.loss.shares else rms)
        self._centre()
        self._constant = self._loss()
        self._w, self._z = weights, self._z + self._products(weights)
        self._look()

    def _products(self, weights: torch.Tensor) -> torch.Tensor:
        flat = (weights * self._work.factor[:, None]).flatten(0, 1)
        return self._features.times(flat).reshape(*weights.shape[:2], -1)

    def _back(self, residual: torch.Tensor) -> torch.Tensor:
        back = self._features.back(residual.flatten(0, 1)).reshape(*residual.shape[:2], -1)
        return back * self._work.factor[:, None]

    def _look(self) -> None:
        """Intercept, gradient and curvature here."""
        work = self._work
        self._centre()
        residual, curvature = work.loss.at(self._z, work.target, work.weight)
        self._g = self._back(residual) + work.penalty[:, None, None] * self._w
        self._curvature = curvature.clamp_min(1e-6)

    def _loss(self) -> torch.Tensor:
        return self._work.loss.value(self._z, self._work.target, self._work.weight)

    def _objective(self) -> torch.Tensor:
        return self._loss() + self._work.penalty / 2 * _dot(self._w, self._w)

    def _centre(self) -> None:
        """Move the intercept to where the residuals sum to 0.

        Newton's steps, damped so that none overshoots (Sun and Tran-Dinh 2019, section 4, M = `third`). The curvature
        by several intercepts is that of an earlier place for as long as it brings the residuals' sums down.
        """
        work, before = self._work, torch.full_like(self._rounds, torch.inf)
        for _ in range(CENTRING):
            off = work.loss.off(self._z, work.target, work.weight)
            size = off.abs().amax(1)
            if bool((size <= self._rounds).all()):
                break
            if self._alone or bool((size > SLOW * before).any()):
                self._see_level()
            before, move = size, -self._level(off)
            far = work.loss.third * move.abs().amax(1, keepdim=True)
            move = torch.where(far > 0, far.log1p() / far, 1.0) * move
            self._b, self._z = self._b + move, self._z + move[:, :, None]

    @property
    def _alone(self) -> bool:
        return self._b.shape[1] == 1

    def _see_level(self) -> None:
        """The curvature by the intercepts here."""
        level = self._work.loss.level(self._z, self._work.weight)
        self._levels = (level[:, 0].clamp_min(1e-30),) if self._alone else torch.linalg.lu_factor_ex(level)[:2]

    def _level(self, change: torch.Tensor) -> torch.Tensor:
        """The move of the intercepts [P, C] that changes the sums of the residuals by this much."""
        if self._alone:
            return change / self._levels[0]
        return torch.linalg.lu_solve(*self._levels, change[:, :, None])[:, :, 0]

    def size(self) -> torch.Tensor:
        """Of the gradient [P]."""
        return _dot(self._g, self._g).sqrt()

    def rounding(self) -> torch.Tensor:
        """What rounding may hide of the gradient's norm [P]: of residuals as exact as targets are, times columns."""
        return self._rounds * self._work.factor.square().sum(1).sqrt()

    def solved(self) -> torch.Tensor:
        """Whose gap is small enough [P] bool; objectives, which cost a logarithm a row, only where they may decide."""
        if bool((self._bound() <= GAP * self._constant).any()):
            return self._gap(self._objective()) <= GAP
        return torch.zeros_like(self._hard)

    def _bound(self) -> torch.Tensor:
        return _dot(self._g, self._g) / (2 * self._work.penalty)

    def _gap(self, objective: torch.Tensor) -> torch.Tensor:
        """Upper bound of (objective - optimum) / (best constant's objective - objective)."""
        least = self._constant * torch.finfo(self._g.dtype).eps / GAP
        return self._bound() / torch.maximum(self._constant - objective, least)

    def store(self, found: Solution, where: torch.Tensor, step: int) -> None:
        """What is found here, as the solutions of the problems `where`."""
        size, objective = self.size(), self._objective()
        radius = (size + self.rounding()) / self._work.penalty
        parts = (self._w, self._b, self._z, objective, size, self._gap(objective), radius, self._drift())
        for whole, part in zip(vars(found).values(), (*parts, torch.full_like(size, step)), strict=True):
            whole[where] = part

    def _drift(self) -> torch.Tensor:
        """What rounding may hide of the intercept [P], in its sums of residuals and in itself."""
        level = torch.linalg.eigvalsh(self._work.loss.level(self._z, self._work.weight))[:, 0].clamp_min(1e-30)
        return 2 * self._rounds / level + ROUNDINGS * torch.finfo(level.dtype).eps * self._b.abs().amax(1)

    def keep(self, index: torch.Tensor) -> None:
        self._work = self._work.pick(index)
        for name in ("_w", "_b", "_z", "_g", "_curvature", "_constant", "_rounds", "_hard"):
            setattr(self, name, getattr(self, name)[index])
        self._levels = tuple(part[index] for part in self._levels)
        self._memory = [tuple(part[index] for part in pair) for pair in self._memory]

    def advance(self) -> None:
        """One step: direction, step length, new place, new memory."""
        dw = self._direction()
        if self._alone:
            self._see_level()
        dz, db = self._followed(dw, self._turning())
        step = self._length(dz, dw)
        sw, g = step[:, None, None] * dw, self._g
        self._w, self._b = self._w + sw, self._b + step[:, None] * db
        self._z = torch.addcmul(self._z, step[:, None, None], dz)
        self._look()
        yw = self._g - g
        bend = _dot(sw, yw)
        self._memory.append((sw, yw, torch.where(bend > 0, 1 / bend, 0.0)))
        del self._memory[:-MEMORY]

    def _followed(self, dw: torch.Tensor, turning: Turning) -> tuple[torch.Tensor, torch.Tensor]:
        """What a move of the weights does to the logits where the intercept follows, and the intercept's part of it."""
        dz = self._products(dw)
        db = self._level(-turning(dz).sum(2))
        return dz.add_(db[:, :, None]), db

    def _turning(self) -> Turning:
        return self._work.loss.turning(self._z, self._work.weight)

    def _direction(self) -> torch.Tensor:
        """In float64 Newton's: by a few conjugate gradients where these do, else by the sure way, if there is one."""
        if self._g.dtype is torch.float32:
            return self._remembered()
        sure, found = sure_way(self._features, self._work), torch.empty_like(self._g)
        if len(easy := torch.nonzero(~self._hard)[:, 0]):
            part, most = self.part(easy), max(TRIED, self._features.width // 8) if sure else STEPS
            found[easy], reached = part._conjugate(part._lent(torch.float32), most)
            self._hard[easy] = ~reached & (sure is not None)
        if len(hard := torch.nonzero(self._hard)[:, 0]):
            assert sure is not None
            found[hard] = torch.cat([sure(self.part(hard[i : i + 1])) for i in range(len(hard))])
        return found

    def part(self, index: torch.Tensor) -> "Iterates":
        part = copy(self)
        part._memory = []
        part.keep(index)
        return part

    def _lent(self, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
        """Multiplication by about the inverse of the second derivative."""
        curvature, penalty = self._curvature.to(dtype), self._work.penalty.to(dtype)
        return lambda v: self._basis.solve(v, curvature, penalty)

    def _remembered(self) -> torch.Tensor:
        """The two loops of L-BFGS; between them the eigenbasis takes the place of a multiple of the identity."""
        v, shares = self._g.clone(), []
        for sw, yw, rho in reversed(self._memory):
            share = rho * _dot(sw, v)
            v = v.addcmul_(-share[:, None, None], yw)
            shares.append(share)
        v = self._lent(v.dtype)(v)
        for (sw, yw, rho), share in zip(self._memory, reversed(shares), strict=True):
            v = v.addcmul_((share - rho * _dot(yw, v))[:, None, None], sw)
        return -v

    def _conjugate(self, lent: Callable[[torch.Tensor], torch.Tensor], most: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Newton's direction by float32: the gradient alone decides how near the optimum is found; and whether `most`
        steps got there [P]."""
        size, rough = self.size()[:, None, None], self._rough()
        rough._see_level()
        penalty, turning = rough._work.penalty[:, None, None], rough._turning()

        def curved(v: torch.Tensor) -> torch.Tensor:
            return rough._back(turning(rough._followed(v, turning)[0])).add_(penalty * v)

        found, reached = conjugate_gradients(curved, lent, (-self._g / size).float(), most)
        return size * found.double(), reached

    def _rough(self) -> "Iterates":
        rough = copy(self)
        rough._work, rough._z = self._work.to(torch.float32), self._z.float()
        return rough

    def _newton(self) -> torch.Tensor:
        """Of one problem, exactly."""
        work, x = self._work, self._features.matrix(torch.float64) * self._work.factor[0]
        return work.loss.newton(x, self._z[0], work.weight[0], float(work.penalty), self._g[0])[None]

    def _by_blocks(self) -> torch.Tensor:
        """Of one problem, by conjugate gradients that know the curvature of each output."""
        rough, x = self._rough(), self._features.matrix(torch.float32)
        bends = rough._work.loss.bends(rough._z, rough._work.weight)[0]
        inverse = inverse_blocks(x * rough._work.factor[0], bends, rough._work.penalty)
        return self._conjugate(lambda v: (inverse @ v[..., None])[..., 0], STEPS)[0]

    def _length(self, dz: torch.Tensor, dw: torch.Tensor) -> torch.Tensor:
        """Where the objective's slope along the direction vanishes, to a tenth: Newton's method from 1, bracketed."""
        work = self._work
        cross, size = _dot(self._w, dw), _dot(dw, dw)
        step = torch.ones_like(cross)
        low, high = torch.zeros_like(cross), torch.full_like(cross, torch.inf)
        for _ in range(30):
            slope, bend = work.loss.along(self._z + step[:, None, None] * dz, dz, work.target, work.weight)
            slope, bend = slope + work.penalty * (cross + step * size), bend + work.penalty * size
            low, high = torch.where(slope < 0, step, low), torch.where(slope < 0, high, step)
            halfway = torch.where(high.isinf(), 2 * step, (low + high) / 2)
            new = step - slope / bend
            new = torch.where((new > low) & (new < high), new, halfway)
            settled = (new - step).abs() <= 0.1 * new
            step = new
            if bool(settled.all()):
                break
        return step


def sure_way(features: Features, work: Work) -> "Callable[[Iterates], torch.Tensor] | None":
    """To Newton's direction of one problem, whatever its rows."""
    outputs, width = work.target.shape[1], features.width
    if features.streamed:
        return None
    if features.doubles(NEWTON_COPIES) and affordable(features.n, width, outputs):
        return Iterates._newton
    blocks = width <= BLOCKS and features.room(12 * outputs * width**2)
    return Iterates._by_blocks if outputs > 1 and blocks else None


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner product of each problem, over outputs and columns."""
    return (a * b).flatten(1).sum(1)
