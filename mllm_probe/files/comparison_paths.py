"""The files of a comparison. Knows names, not contents."""

from dataclasses import dataclass
from pathlib import Path

from mllm_probe.files.store_paths import plain_name


@dataclass(frozen=True)
class ComparisonPaths:
    """The files of several runs side by side."""

    root: Path

    def scores(self, kind: str) -> Path:
        return self.root / f"compare.{kind}"

    @property
    def ranking(self) -> Path:
        return self.root / "ranking.csv"

    @property
    def differences(self) -> Path:
        """Of effects of interventions."""
        return self.root / "differences.csv"

    def figure(self, task: str, kind: str) -> Path:
        return self.root / f"{plain_name(task)}.{kind}"

    def tasks(self, kind: str) -> Path:
        return self.root / f"all_tasks.{kind}"

    @property
    def page(self) -> Path:
        return self.root / "report.html"
