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
alone. Float64 checks it, and goes on by Newton's directions: by conjugate gradients for all problems together, and for
those where a few steps do not get there by the exact matrix, or with the curvature of each class as preconditioner,
where one of them is affordable.
"""

from dataclasses import replace

import torch

from mllm_probe.probes.solving.iterates import Iterates, Solution, sure_way
from mllm_probe.probes.solving.objectives import Work
from mllm_probe.probes.solving.standardised import Basis, Features

ROUGH, ROUGH_BEFORE_NEWTON, EXACT = 300, 30, 200  # steps at most: in float32, there if Newton can follow, in float64
PATIENCE = 20  # steps without a smaller gradient before it is taken for all that this precision gives


def solve(features: Features, basis: Basis, work: Work) -> Solution:
    """Every problem to its optimum; `converged` says which got there."""
    problems, outputs, _ = work.target.shape
    zeros = torch.zeros(problems, outputs, features.width, device=features.device)
    steps = ROUGH_BEFORE_NEWTON if sure_way(features, work) else ROUGH
    rough = _descend(features, basis, work.to(torch.float32), zeros, steps)
    exact = _descend(features, basis, work.to(torch.float64), rough.weights.double(), EXACT)
    return replace(exact, steps=rough.steps + exact.steps)


def finish(features: Features, basis: Basis, work: Work, found: Solution) -> Solution:
    """Solutions from `solve`, as far as float64 goes."""
    exact = _descend(features, basis, work, found.weights, EXACT, fully=True)
    return replace(exact, steps=found.steps + exact.steps)


def _descend(
    features: Features, basis: Basis, work: Work, start: torch.Tensor, steps: int, fully: bool = False
) -> Solution:
    """From a start to GAP (`fully`: to where rounding hides the gradient), or the end of patience or steps.

    Solved problems leave the batch.
    """
    front, found = Iterates(features, basis, work, start), _blank(work, start)
    alive = torch.arange(len(start), device=features.device)
    best, waited = torch.full_like(work.penalty, torch.inf), torch.zeros_like(work.penalty)
    for step in range(steps + 1):
        size = front.size()
        waited = torch.where(size < 0.9 * best, 0.0, waited + 1)
        best = torch.minimum(best, size)
        done = size <= front.rounding() if fully else front.solved()
        out = done | (waited > PATIENCE) | (step == steps) | size.isnan()
        if bool(out.any()):
            gone, kept = (torch.nonzero(part)[:, 0] for part in (out, ~out))
            front.part(gone).store(found, alive[gone], step)
            if not len(kept):
                break
            alive, best, waited = alive[kept], best[kept], waited[kept]
            front.keep(kept)
        front.advance()
    return found


def _blank(work: Work, weights: torch.Tensor) -> Solution:
    """Room for the solutions of so many problems."""
    numbers = (torch.zeros_like(work.penalty) for _ in range(6))
    return Solution(weights.clone(), weights.new_zeros(weights.shape[:2]), torch.empty_like(work.target), *numbers)
