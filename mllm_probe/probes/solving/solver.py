"""L2-regularised linear problems to a certified optimum, all problems of a layer at once. Knows no layer and no file.

Each problem minimises its own mean loss plus lambda / 2 times the squared norm of its weights, in features
standardised by its own training rows; the intercept is free. scikit-learn's LogisticRegression with C = 1 / (lambda N)
and Ridge with alpha = lambda N have the same optimum, and are the oracles of the tests.

The intercept is at its best for the weights throughout, so that the objective is one of the weights alone, lambda-
strongly convex, with the weights' gradient g. Hence (Nesterov 2018, section 2.1.3) it is at most |g|^2 / (2 lambda)
above its optimum, and the weights at most |g| / lambda away from the optimum's, in float64, whose rounding is added. A
problem is solved when the first bound is below `GAP` of what it has learnt: of the best constant's objective less its
own. `finish` goes on until rounding hides the gradient, so that the second bound settles decisions.

Float32 does the work, by L-BFGS (Nocedal and Wright, algorithm 7.4) preconditioned by the layer's eigenbasis, every
product with the features shared by all problems; the step along a direction is found by Newton's method on logits
alone. Float64 checks it, and goes on by Newton's directions: exact ones where their matrices are affordable, else by
conjugate gradients.
"""

from copy import copy
from dataclasses import dataclass, replace

import torch

from mllm_probe.probes.solving.objectives import At, Loss, affordable, conjugate_gradients, newton_direction
from mllm_probe.probes.solving.standardised import Basis, Features

GAP = 1e-6
MEMORY = 12  # steps that the curvature estimate remembers
ROUGH, ROUGH_BEFORE_NEWTON, EXACT = 300, 60, 200  # steps at most: in float32, there if Newton can follow, in float64
NEWTON_COPIES = 4  # of the features in float64: as they are, with a problem's factor, centred, with its rows' weights
PATIENCE = 20  # steps without a smaller gradient before it is taken for all that this precision gives
CENTRING = 60  # steps of the intercept at most; three or four is common
ROUNDINGS = 16  # of the precision, in each product of the features with residuals


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


def solve(features: Features, basis: Basis, work: Work) -> Solution:
    """Every problem to its optimum; `converged` says which got there."""
    problems, outputs, _ = work.target.shape
    zeros = torch.zeros(problems, outputs, features.width, device=features.device)
    steps = ROUGH_BEFORE_NEWTON if _newton_can_follow(features, work) else ROUGH
    rough = _descend(features, basis, work.to(torch.float32), zeros, steps)
    exact = _descend(features, basis, work.to(torch.float64), rough.weights.double(), EXACT)
    return replace(exact, steps=rough.steps + exact.steps)


def finish(features: Features, basis: Basis, work: Work, found: Solution) -> Solution:
    """Solutions from `solve`, as far as float64 goes."""
    exact = _descend(features, basis, work, found.weights, EXACT, fully=True)
    return replace(exact, steps=found.steps + exact.steps)


def _newton_can_follow(features: Features, work: Work) -> bool:
    if features.streamed or work.target.shape[1] > 1:
        return False
    return features.doubles(NEWTON_COPIES) and affordable(features.n, features.width)


def _descend(
    features: Features, basis: Basis, work: Work, start: torch.Tensor, steps: int, fully: bool = False
) -> Solution:
    """From a start to GAP (`fully`: to where rounding hides the gradient), or the end of patience or steps.

    Solved problems leave the batch.
    """
    front = _Front(features, basis, work, start)
    found = front.solution(start.new_zeros(len(start)))
    alive = torch.arange(len(start), device=features.device)
    best, waited = torch.full_like(found.gap, torch.inf), torch.zeros_like(found.gap)
    for step in range(steps + 1):
        size = front.size()
        waited = torch.where(size < 0.9 * best, 0.0, waited + 1)
        best = torch.minimum(best, size)
        done = size <= front.rounding() if fully else front.gap() <= GAP
        out = done | (waited > PATIENCE) | (step == steps) | size.isnan()
        if bool(out.any()):
            _store(found, alive[out], front.solution(torch.full_like(size, step)), out)
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
    """Where the unsolved problems of a batch stand, intercepts at their best, and what they remember of their steps."""

    def __init__(self, features: Features, basis: Basis, work: Work, weights: torch.Tensor) -> None:
        self._features, self._basis, self._work = features, basis, work
        self._memory: list[tuple[torch.Tensor, ...]] = []
        self._w, self._b = torch.zeros_like(weights), weights.new_zeros(weights.shape[:2])
        self._z = torch.zeros_like(work.target)
        rms = (work.target.square() * work.weight[:, None]).sum((1, 2)).sqrt()
        self._rounds = ROUNDINGS * torch.finfo(weights.dtype).eps * rms
        self._constant = self._centre()[0]
        self._w, self._z = weights, self._z + self._products(weights)
        self._look()

    def _products(self, weights: torch.Tensor) -> torch.Tensor:
        flat = (weights * self._work.factor[:, None]).flatten(0, 1)
        return self._features.times(flat).reshape(*weights.shape[:2], -1)

    def _back(self, residual: torch.Tensor) -> torch.Tensor:
        back = self._features.back(residual.flatten(0, 1)).reshape(*residual.shape[:2], -1)
        return back * self._work.factor[:, None]

    def _look(self) -> None:
        """Intercept, objective, gradient and curvature here."""
        work = self._work
        loss, residual, curvature = self._centre()
        self.objective = loss + work.penalty / 2 * _dot(self._w, self._w)
        self._g = self._back(residual) + work.penalty[:, None, None] * self._w
        self._curvature = curvature.clamp_min(1e-6)

    def _centre(self) -> At:
        """Move the intercept to where the residuals sum to 0, and return the loss there.

        Newton's steps, damped so that none overshoots (Sun and Tran-Dinh 2019, section 4, M = `third`).
        """
        work = self._work
        for _ in range(CENTRING):
            found = work.loss.at(self._z, work.target, work.weight)
            off = found[1].sum(2)
            if bool((off.abs().amax(1) <= self._rounds).all()):
                break
            move = -self._level(off)
            far = work.loss.third * move.abs().amax(1, keepdim=True)
            move = torch.where(far > 0, far.log1p() / far, 1.0) * move
            self._b, self._z = self._b + move, self._z + move[:, :, None]
        return found

    def _level(self, change: torch.Tensor) -> torch.Tensor:
        """The move of the intercepts [P, C] that changes the sums of the residuals by this much."""
        level = self._work.loss.level(self._z, self._work.weight)
        return torch.linalg.solve(level, change) if change.shape[1] > 1 else change / level[:, 0].clamp_min(1e-30)

    def size(self) -> torch.Tensor:
        """Of the gradient [P]."""
        return _dot(self._g, self._g).sqrt()

    def rounding(self) -> torch.Tensor:
        """What rounding may hide of the gradient's norm [P]: of residuals as exact as targets are, times columns."""
        return self._rounds * self._work.factor.square().sum(1).sqrt()

    def gap(self) -> torch.Tensor:
        """Upper bound of (objective - optimum) / (best constant's objective - objective)."""
        bound = _dot(self._g, self._g) / (2 * self._work.penalty)
        fall = self._constant - self.objective
        return bound / torch.maximum(fall, self._constant * torch.finfo(self._g.dtype).eps / GAP)

    def solution(self, steps: torch.Tensor) -> Solution:
        size = self.size()
        radius = (size + self.rounding()) / self._work.penalty
        parts = (self._w, self._b, self._z, self.objective, size, self.gap(), radius, self._drift(), steps)
        return Solution(*(part.clone() for part in parts))

    def _drift(self) -> torch.Tensor:
        """What rounding may hide of the intercept [P], in its sums of residuals and in itself."""
        level = torch.linalg.eigvalsh(self._work.loss.level(self._z, self._work.weight))[:, 0].clamp_min(1e-30)
        return 2 * self._rounds / level + ROUNDINGS * torch.finfo(level.dtype).eps * self._b.abs().amax(1)

    def keep(self, index: torch.Tensor) -> None:
        self._work = self._work.pick(index)
        for name in ("_w", "_b", "_z", "_g", "_curvature", "_constant", "_rounds", "objective"):
            setattr(self, name, getattr(self, name)[index])
        self._memory = [tuple(part[index] for part in pair) for pair in self._memory]

    def advance(self) -> None:
        """One step: direction, step length, new place, new memory."""
        dw = self._direction()
        dz, db = self._followed(dw)
        step = self._length(dz, dw)
        sw, g = step[:, None, None] * dw, self._g
        self._w, self._b = self._w + sw, self._b + step[:, None] * db
        self._z = torch.addcmul(self._z, step[:, None, None], dz)
        self._look()
        yw = self._g - g
        bend = _dot(sw, yw)
        self._memory.append((sw, yw, torch.where(bend > 0, 1 / bend, 0.0)))
        del self._memory[:-MEMORY]

    def _followed(self, dw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What a move of the weights does to the logits where the intercept follows, and the intercept's part of it."""
        work, dz = self._work, self._products(dw)
        db = self._level(-work.loss.turn(self._z, dz, work.weight).sum(2))
        return dz + db[:, :, None], db

    def _direction(self) -> torch.Tensor:
        exact = self._newton if _newton_can_follow(self._features, self._work) else self._conjugate
        return self._remembered() if self._g.dtype is torch.float32 else exact()

    def _remembered(self) -> torch.Tensor:
        """The two loops of L-BFGS; between them the eigenbasis takes the place of a multiple of the identity."""
        v, shares = self._g.clone(), []
        for sw, yw, rho in reversed(self._memory):
            share = rho * _dot(sw, v)
            v = v.addcmul_(-share[:, None, None], yw)
            shares.append(share)
        v = self._basis.solve(v, self._curvature, self._work.penalty)
        for (sw, yw, rho), share in zip(self._memory, reversed(shares), strict=True):
            v = v.addcmul_((share - rho * _dot(yw, v))[:, None, None], sw)
        return -v

    def _conjugate(self) -> torch.Tensor:
        """Newton's direction by float32: the gradient alone decides how near the optimum is found."""
        size, rough = self.size()[:, None, None], copy(self)
        rough._work, rough._z = self._work.to(torch.float32), self._z.float()
        penalty, curvature = rough._work.penalty, self._curvature.float()

        def curved(v: torch.Tensor) -> torch.Tensor:
            turned = self._work.loss.turn(rough._z, rough._followed(v)[0], rough._work.weight)
            return rough._back(turned) + penalty[:, None, None] * v

        right = (-self._g / size).float()
        return size * conjugate_gradients(curved, lambda v: self._basis.solve(v, curvature, penalty), right).double()

    def _newton(self) -> torch.Tensor:
        work, x = self._work, self._features.matrix()
        bend = work.loss.bend(self._z, work.weight)
        assert bend is not None
        found = [
            newton_direction(x * work.factor[p], bend[p], work.penalty[p], self._g[p, 0]) for p in range(len(bend))
        ]
        return torch.stack(found)[:, None]

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
