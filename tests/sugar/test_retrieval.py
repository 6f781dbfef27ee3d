"""How often pictures are exchanged: as often as a layer needs to pass Holm over all of them."""

import numpy as np
import pytest

from mllm_probe.stats.permutation import two_sided
from mllm_probe.sugar.retrieval import exchanges
from tests.support.runs import Silent


@pytest.mark.parametrize("layers", [1, 9, 14, 34, 81])
def test_a_score_above_every_exchange_passes_holm_over_all_layers(layers: int) -> None:
    said = Silent()
    count = exchanges(None, layers, said)
    least = two_sided(1.0, np.zeros(count))
    assert least * layers <= 0.05 and count >= 499 and not said.notes


def test_too_few_exchanges_are_told() -> None:
    said = Silent()
    assert exchanges(0, 14, said) == 0 and exchanges(560, 14, said) == 560 and not said.notes
    assert exchanges(559, 15, said) == 559
    assert said.notes == ["with align.permutations=559 no p can pass Holm over 15 layers; 600 or more can"]
    assert two_sided(1.0, np.zeros(559)) * 15 > 0.05 >= two_sided(1.0, np.zeros(600)) * 15
