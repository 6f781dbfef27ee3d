"""What goes with a release is in order: citation, change log, workflow."""

import re
import tomllib
from typing import Any

import yaml

from mllm_probe import __version__
from tests.support.markdown_pages import ROOT

CHANGES = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_citation_has_what_its_schema_asks_for() -> None:
    """Citation File Format 1.2.0: required keys, and for each author one of the two forms."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software" and cited["license"] == "Apache-2.0"
    assert cited["version"] == __version__
    for work in (cited, *cited["references"]):
        assert {"type", "title", "authors"} <= work.keys() and work["authors"]
        assert all({"name", "family-names"} & author.keys() for author in work["authors"])


def test_the_change_log_is_kept() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert releases[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", release) for release in releases[1:])
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= CHANGES


def test_the_workflow_calls_what_the_makefile_has() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps: list[dict[str, Any]] = [step for job in workflow["jobs"].values() for step in job["steps"]]
    targets = {word for step in steps for word in re.findall(r"\bmake ([a-z-]+)$", step.get("run", ""), re.MULTILINE)}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"check", "test", "test-slurm", "wheel"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"]) for step in steps if "uses" in step)
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"][0] == oldest.removeprefix(">=")
