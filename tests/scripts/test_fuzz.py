"""Thousands of broken inputs and odd settings: each ends in one sentence, the intact numbers, or another identity."""

from pathlib import Path

import pytest
from fuzz import KINDS, main


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_case_ends_otherwise(checkpoint: Path) -> None:
    assert main(["--checkpoint", str(checkpoint)]) == 0


def test_a_case_of_each_kind(checkpoint: Path) -> None:
    assert main(["--cases", str(len(KINDS)), "--checkpoint", str(checkpoint)]) == 0
