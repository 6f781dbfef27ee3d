"""What is changed inside a model, and what that changed of its answers. Knows no model and no label; imports no torch.

Letters in shapes: N prompts, C interventions, D width.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe.records.sites import Site

if TYPE_CHECKING:
    import torch

KINDS = CUT, ADD, REPLACE, ERASE = "cut", "add", "replace", "erase"


@dataclass(frozen=True)
class Intervention:
    """One change, made in every prompt alike.

    `cut`: queries at the tokens of `span` may not read keys at those of `source` in the blocks of `window` (first and
    last, counted from 1); with a whole number as `payload`, as many edges are cut in their place, drawn by it among all
    causal edges of the rows behind the picture. The others change states of `site` at the tokens of `span`: `add` a
    payload [D], `replace` them by those of other prompts at the same tokens ({uid: uid of the donor}; a prompt that has
    none is left out), or `erase`: what the payload makes of rows [n, D].
    """

    kind: str
    span: str
    site: Site | None = None
    source: str = ""
    window: tuple[int, int] | None = None
    payload: Any = None


@dataclass(frozen=True)
class Pass:
    """States [R, D] of the last block at the last tokens, under the interventions numbered in `changed` [R] (None:
    none), of the prompts numbered in `rows` [R]."""

    changed: np.ndarray | None
    rows: np.ndarray
    states: "torch.Tensor"


@dataclass(frozen=True)
class Outcomes:
    """N prompts without intervention, and under each of C; nan where one was left out.

    `d`: log p(first answer word) - log p(second) at the last token, as `extract.answers` reads it; `p`: the probability
    of the token that is likeliest without intervention; `kl`: Kullback-Leibler divergence, in nats, of the changed from
    the undisturbed distribution over all tokens but those of the answer words.
    """

    uids: tuple[str, ...]
    clean_d: np.ndarray  # [N] float32
    clean_p: np.ndarray  # [N] float32
    d: np.ndarray  # [C, N] float32
    p: np.ndarray  # [C, N] float32
    kl: np.ndarray  # [C, N] float32


@dataclass(frozen=True)
class Condition:
    """One point of a sweep, as effects.csv names it.

    `kind` is that of the experiment (knockout, patching, steering, erasure); `what` the edge, span or direction;
    `first` and `last` are the blocks that are changed, `layer` the middle of them or the site's. `control`: "" for the
    effect itself, `random` for the draws it is compared with, `control_task`. `direction` of patching: `denoise`, where
    states of the prompt with the clean picture go into the other, or `noise`.
    """

    kind: str
    what: str
    site: str = ""
    first: int = 0
    last: int = 0
    layer: int = 0
    depth: float = 0.0
    strength: float | None = None
    control: str = ""
    draw: int = 0
    direction: str = ""
