"""How tests are shared between processes (`pytest -n 2`): a file stays whole, since its tests share what they made."""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

APART = ("test_hf_conformance.py", "test_docs.py")  # their parameters share nothing: a family, a page


class ByFile(LoadScopeScheduling):
    """In the order in which tests are collected."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        """The file of a test; of some files with the last parameter, or with the test that has none."""
        file, _, test = nodeid.partition("::")
        if not file.endswith(APART):
            return file
        return f"{file}::{test.rstrip(']').rpartition('[')[2].rpartition('-')[2]}"
