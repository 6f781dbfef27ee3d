"""The names of what is stored for later: caches, and what unfinished sweeps and trainings go on from.

A file that is being written has a name of its own, so that what a killed process left is known for it.
"""

import os
import platform
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CLAIM = re.compile(r"\d{5,}\.\d+\.claim")
DIGESTS = "digests.json"  # beside the caches
OLD_PLAN = "plan.json"  # of an older release
TEMPORARY = re.compile(r"\.[\w.]+\.(json|safetensors)\..*\.\d+")  # what `replacing` leaves where it was killed


@dataclass(frozen=True)
class Unfinished:
    """What unfinished work goes on from."""

    root: Path

    def claim(self, number: int, generation: int) -> Path:
        """0: whose turn it is; others: who is at it."""
        return self.root / f"{number:05d}.{generation}.claim"

    def claimed(self) -> set[int]:
        return {int(path.name.partition(".")[0]) for path in self.root.glob("*.claim") if is_claim(path)}


@dataclass(frozen=True)
class PartPaths(Unfinished):
    """What an unfinished sweep has fitted, one file a key."""

    def part(self, name: str) -> Path:
        return self.root / f"{plain_name(name)}.safetensors"

    def rows(self, name: str) -> Path:
        """What is kept as rows of a table."""
        return self.root / f"{plain_name(name)}.json"

    def attempt(self, token: str) -> Path:
        """What one process extracted for the sweep."""
        return self.root / f"attempt.{token}.json"

    def attempts(self) -> list[Path]:
        return sorted(self.root.glob("attempt.*.json"))


@dataclass(frozen=True)
class FitPaths:
    """What sweeps have fitted, for the next ones: a file for each call of a probe, named by all that went in."""

    root: Path

    def fit(self, digest: str) -> Path:
        return self.root / f"{digest}.safetensors"


@dataclass(frozen=True)
class TrainingPaths(Unfinished):
    """What an unfinished training goes on from."""

    @property
    def state(self) -> Path:
        return self.root / "state.safetensors"


@dataclass(frozen=True)
class VectorPaths:
    """What one frozen encoder made of slices, a file for each part that was computed in one go."""

    root: Path

    @property
    def identity(self) -> Path:
        return self.root / "identity.json"

    def part(self, digest: str) -> Path:
        return self.root / f"{digest}.safetensors"

    def parts(self) -> list[Path]:
        return sorted(path for path in self.root.glob("*.safetensors") if not path.name.startswith("."))


@dataclass(frozen=True)
class CachePaths:
    """One cache: a folder per identity, in it one folder per shard group."""

    root: Path

    @property
    def identity(self) -> Path:
        return self.root / "identity.json"

    @property
    def digests(self) -> Path:
        """Shared with the caches beside it."""
        return self.root.parent / DIGESTS

    @property
    def groups(self) -> Path:
        return self.root / "groups"

    @property
    def renderings(self) -> Path:
        return self.root / "renderings"

    def rendering(self, sample: str) -> Path:
        """A sample token by token, for people: kept of the first samples of a run, by their uids."""
        return self.renderings / f"{sample}.json"

    def group(self, digest: str) -> "GroupPaths":
        return GroupPaths(self.groups / digest)


@dataclass(frozen=True)
class GroupPaths:
    """One shard group: a plan and the shards it fills."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "plan.npz"

    @property
    def stored_plan(self) -> Path:
        """The one that is there, which an older release may have written."""
        old = self.root / OLD_PLAN
        return old if old.exists() and not self.plan.exists() else self.plan

    @property
    def provenance(self) -> Path:
        return self.root / "provenance.json"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    def shard(self, number: int) -> Path:
        return self.root / f"{number:05d}.safetensors"

    def retry(self, number: int) -> Path:
        """How small the passes of a shard had to become, where memory ran out."""
        return self.root / f"{number:05d}.retry.json"

    def claim(self, number: int, generation: int) -> Path:
        """Who fills a shard; each generation takes over from the one before."""
        return self.root / f"{number:05d}.{generation}.claim"

    def listed(self, shards: int) -> set[Path]:
        """Every file that a finished group of so many shards may hold."""
        parts = {name(number) for number in range(shards) for name in (self.shard, self.retry)}
        return {self.plan, self.root / OLD_PLAN, self.provenance, self.manifest, *parts}


def prune(words: str, outputs: Path) -> str:
    """The command that removes of the caches in a folder outputs/ what the words say."""
    place = "" if outputs == Path("outputs") else f" --outputs {shlex.quote(str(outputs))}"
    return f"`{' '.join(['mllm-probe cache prune', *words.split()])}{place}`"


def is_claim(path: Path) -> bool:
    return CLAIM.fullmatch(path.name) is not None


def plain_name(name: str) -> str:
    """A name without what a file system may not take."""
    return re.sub(r"[^\w.@-]", "_", name)


def is_temporary(path: Path) -> bool:
    return TEMPORARY.fullmatch(path.name) is not None


def pid_namespace() -> str:
    """Containers of one host may number their processes apart."""
    here = Path("/proc/self/ns/pid")
    return here.readlink().name.strip("pid:[]") if here.exists() else ""


def runs_here(pid: int) -> bool:
    """Whether a process of this host and namespace is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def temporary(path: Path) -> Path:
    """A neighbour that only this process writes to."""
    return path.with_name(f".{path.name}.{platform.node()}.{pid_namespace()}.{os.getpid()}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to a temporary neighbour, then rename it over `path`: readers see the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary(path)
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk does not say where
    finally:
        part.unlink(missing_ok=True)
