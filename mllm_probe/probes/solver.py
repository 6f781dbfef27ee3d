"""L2-regularised linear problems to a certified optimum, all problems of a layer at once. Knows no layer and no file.

Each problem minimises its own mean loss plus lambda / 2 times the squared norm of its weights, in features
standardised by its own training rows; the intercept is free. scikit-learn's LogisticRegression with C = 1 / (lambda N)
and Ridge with alpha = lambda N have the same optimum, and are the oracles of the tests.

The method is L-BFGS (Nocedal and Wright, algorithm 7.4) preconditioned by the layer's eigenbasis, every product with
the features shared by all problems, the step along a direction found by Newton's method on logits alone. The
objective is lambda-strongly convex, so the squared gradient norm over 2 lambda bounds how far it is above its optimum:
a problem is done when that bound is below `GAP` of its objective. Float32 does the work; float64 checks it, and goes
on where float32 could not, by Newton's method where its matrices are affordable.
"""

from dataclasses import dataclass, replace

import torch

from mllm_probe.probes.basis import Basis
from mllm_probe.probes.features import Features
from mllm_probe.probes.losses import Loss
from mllm_probe.probes.newton import affordable, newton_direction

GAP = 1e-6
MEMORY = 12  # steps that the curvature estimate remembers
ROUGH, ROUGH_BEFORE_NEWTON, EXACT = 300, 60, 1000  # steps at most: in float32, there if Newton can follow, in float64
NEWTON_COPIES = 3  # of the features in float64: as they are, with a problem's factor, with its rows' weights
PATIENCE = 20  # float32 steps without a smaller gradient before float64 takes over


@dataclass(frozen=True)
class Work:
    """P problems with C outputs each: targets [P, C, n], row weights [P, n], lambda [P], column factors [P, D]."""

    loss: Loss
    target: torch.Tensor
    weight: torch.Tensor
    penalty: torch.Tensor
    factor: torch.Tensor

    def pick(self, index: torch.Tensor) -> "Work":
        return Work(self.loss, self.target[index], self.weight[index], self.penalty[index], self.factor[index])

    def to(self, dtype: torch.dtype) -> "Work":
        parts = (self.target, self.weight, self.penalty, self.factor)
        return Work(self.loss, *(part.to(dtype) for part in parts))


@dataclass(frozen=True)
class Solution:
    """weights [P, C, D] for standardised features, intercept [P, C], logits [P, C, n] of all rows, and per problem
    the objective, the Euclidean norm of the gradient, the certified relative gap to the optimum and the steps."""

    weights: torch.Tensor
    intercept: torch.Tensor
    logits: torch.Tensor
    objective: torch.Tensor
    gradient: torch.Tensor
    gap: torch.Tensor
    steps: torch.Tensor

    @property
    def converged(self) -> torch.Tensor:
        return self.gap <= GAP


def solve(features: Features, basis: Basis, work: Work) -> Solution:
    """Every problem to its optimum; `converged` says which got there."""
    problems, outputs, _ = work.target.shape
    zeros = torch.zeros(problems, outputs, features.width, device=features.device)
    steps = ROUGH_BEFORE_NEWTON if _newton_can_follow(features, work) else ROUGH
    rough = _descend(features, basis, work.to(torch.float32), (zeros, zeros[:, :, 0].clone()), steps)
    exact = _descend(features, basis, work.to(torch.float64), (rough.weights.double(), rough.intercept.double()), EXACT)
    return replace(exact, steps=rough.steps + exact.steps)


def _newton_can_follow(features: Features, work: Work) -> bool:
    if features.streamed or work.target.shape[1] > 1:
        return False
    return features.doubles(NEWTON_COPIES) and affordable(features.n, features.width)


def _descend(
    features: Features, basis: Basis, work: Work, start: tuple[torch.Tensor, torch.Tensor], steps: int
) -> Solution:
    """From a start to GAP, to the end of patience or of steps; solved problems leave the batch."""
    weights, intercept = start
    front = _Front(features, basis, work, weights, intercept)
    found = front.solution(weights.new_zeros(len(weights)))
    alive = torch.arange(len(weights), device=features.device)
    best, waited = torch.full_like(found.gap, torch.inf), torch.zeros_like(found.gap)
    for step in range(steps + 1):
        gap = front.gap()
        waited = torch.where(gap < 0.9 * best, 0.0, waited + 1)
        best = torch.minimum(best, gap)
        tired = waited > PATIENCE if weights.dtype is torch.float32 else torch.zeros_like(gap, dtype=torch.bool)
        out = (gap <= GAP) | tired | (step == steps) | gap.isnan()
        if bool(out.any()):
            _store(found, alive[out], front.solution(torch.full_like(gap, step)), out)
            kept = torch.nonzero(~out)[:, 0]
            if not len(kept):
                break
            alive, best, waited = alive[kept], best[kept], waited[kept]
            front.keep(kept)
        front.advance()
    return found


def _store(found: Solution, where: torch.Tensor, now: Solution, out: torch.Tensor) -> None:
    for name in vars(found):
        getattr(found, name)[where] = getattr(now, name)[out]


class _Front:
    """Where the unsolved problems of a batch stand, and what they remember of their last steps."""

    def __init__(
        self, features: Features, basis: Basis, work: Work, weights: torch.Tensor, intercept: torch.Tensor
    ) -> None:
        self._features, self._basis, self._work = features, basis, work
        self._w, self._b = weights, intercept
        self._memory: list[tuple[torch.Tensor, ...]] = []
        self._z = self._logits(weights, intercept)
        self._look()

    def _logits(self, weights: torch.Tensor, intercept: torch.Tensor) -> torch.Tensor:
        flat = (weights * self._work.factor[:, None]).flatten(0, 1)
        return self._features.times(flat).reshape(*weights.shape[:2], -1) + intercept[:, :, None]

    def _look(self) -> None:
        """Objective, gradient and curvature here."""
        work = self._work
        loss, residual, curvature = work.loss.at(self._z, work.target, work.weight)
        self.objective = loss + work.penalty / 2 * _dot(self._w, self._w)
        back = self._features.back(residual.flatten(0, 1)).reshape(*residual.shape[:2], -1)
        self._g = back * work.factor[:, None] + work.penalty[:, None, None] * self._w
        self._gb = residual.sum(2)
        self._curvature = curvature.clamp_min(1e-6)

    def gap(self) -> torch.Tensor:
        """Upper bound of (objective - optimum) / objective, [P]; the intercept's part by its own curvature."""
        bound = _dot(self._g, self._g) / (2 * self._work.penalty)
        bound = bound + _dot(self._gb, self._gb) / (2 * self._curvature)
        return bound / self.objective.clamp_min(1e-30)

    def solution(self, steps: torch.Tensor) -> Solution:
        gradient = (_dot(self._g, self._g) + _dot(self._gb, self._gb)).sqrt()
        parts = (self._w, self._b, self._z, self.objective, gradient, self.gap(), steps)
        return Solution(*(part.clone() for part in parts))

    def keep(self, index: torch.Tensor) -> None:
        self._work = self._work.pick(index)
        for name in ("_w", "_b", "_z", "_g", "_gb", "_curvature", "objective"):
            setattr(self, name, getattr(self, name)[index])
        self._memory = [tuple(part[index] for part in pair) for pair in self._memory]

    def advance(self) -> None:
        """One step: direction, step length, new place, new memory."""
        dw, db = self._direction()
        dz = self._logits(dw, db)
        step = self._length(dz, dw)
        sw, sb = step[:, None, None] * dw, step[:, None] * db
        g, gb = self._g, self._gb
        self._w, self._b, self._z = self._w + sw, self._b + sb, torch.addcmul(self._z, step[:, None, None], dz)
        self._look()
        yw, yb = self._g - g, self._gb - gb
        bend = _dot(sw, yw) + _dot(sb, yb)
        self._memory.append((sw, sb, yw, yb, torch.where(bend > 0, 1 / bend, 0.0)))
        del self._memory[:-MEMORY]

    def _direction(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Newton's where it is worth its matrix. Otherwise the two loops of L-BFGS; between them the eigenbasis takes
        the place of a multiple of the identity."""
        if self._g.dtype is torch.float64 and _newton_can_follow(self._features, self._work):
            return self._newton()
        v, vb, shares = self._g.clone(), self._gb.clone(), []
        for sw, sb, yw, yb, rho in reversed(self._memory):
            share = rho * (_dot(sw, v) + _dot(sb, vb))
            v, vb = v.addcmul_(-share[:, None, None], yw), vb - share[:, None] * yb
            shares.append(share)
        v, vb = self._basis.solve(v, self._curvature, self._work.penalty), vb / self._curvature[:, None]
        for (sw, sb, yw, yb, rho), share in zip(self._memory, reversed(shares), strict=True):
            more = share - rho * (_dot(yw, v) + _dot(yb, vb))
            v, vb = v.addcmul_(more[:, None, None], sw), vb + more[:, None] * sb
        return -v, -vb

    def _newton(self) -> tuple[torch.Tensor, torch.Tensor]:
        work, x = self._work, self._features.matrix()
        bend = work.loss.bend(self._z, work.weight)
        assert bend is not None
        found = [
            newton_direction(x * work.factor[p], bend[p], work.penalty[p], self._g[p, 0], self._gb[p, 0])
            for p in range(len(bend))
        ]
        return torch.stack([dw for dw, _ in found])[:, None], torch.stack([db for _, db in found])[:, None]

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


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner product of each problem, over outputs and columns."""
    return (a * b).flatten(1).sum(1)
