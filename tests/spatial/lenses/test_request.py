"""What no lens can read, before a picture is opened."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mllm_probe.errors import ModelError
from mllm_probe.records.sites import Anatomy
from mllm_probe.spatial.lenses.request import check_lens, check_lens_reads
from mllm_probe.tasks.regions import Regions
from tests.support.configs import composed

HELD = Anatomy({"vision": 2, "lm": 2}, {"vision": 4, "connector": 8, "lm": 8}, True, 100)


def test_a_model_that_holds_no_picture_tokens_is_refused_by_name() -> None:
    config = composed(command="lens")
    check_lens(config)

    def experiment(anatomy: Anatomy) -> Any:
        return SimpleNamespace(task=Regions(), anatomy=anatomy, model=SimpleNamespace(label="mllama"))

    check_lens_reads(experiment(HELD), config)
    with pytest.raises(ModelError, match="mllama: its language model attends to pictures from outside"):
        check_lens_reads(experiment(replace(HELD, crossed=True)), config)
