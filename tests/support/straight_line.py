"""A training whose every step is known."""

from collections.abc import Mapping

import torch
from torch import nn


class Line:
    """y = w x, fitted to noise that depends on the step alone."""

    def __init__(self, stop: int | None = None) -> None:
        self.w, self._stop = nn.Parameter(torch.ones(3)), stop

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return {"w": self.w}

    def backward(self, step: int) -> Mapping[str, float]:
        if step == self._stop:
            raise KeyboardInterrupt
        noise = torch.randn(3)  # the loop seeds it
        loss = ((self.w - noise) ** 2).sum() * (float("nan") if step == 9 else 1)
        loss.backward()
        return {"loss": float(loss.detach())}
