"""Python and the packages that the tool requires, by what is installed: none is imported."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from mllm_probe.machine.findings import PROBLEM, Finding


def packages() -> Iterator[Finding]:
    yield Finding("python", platform.python_version())
    for line in requires("mllm-probe") or ():
        if "extra ==" not in line:
            yield _package(line)
    extra = "installed, so it resizes pictures" if find_spec("torchvision") else "not installed, and never needed"
    yield Finding("torchvision", extra)


def _package(line: str) -> Finding:
    """One requirement such as `torch>=2.6`."""
    from packaging.requirements import Requirement

    wanted = Requirement(line)
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return Finding(wanted.name, "missing", PROBLEM, f"pip install '{wanted}'")
    if not wanted.specifier.contains(found, prereleases=True):
        return Finding(wanted.name, found, PROBLEM, f"pip install '{wanted}'")
    return Finding(wanted.name, found)
