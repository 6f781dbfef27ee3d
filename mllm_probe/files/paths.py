"""Every file and folder name of a data set and a run, and where the caches are (see store_paths); nobody else builds
one. Knows names, not contents."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.files.store_paths import DIGESTS, CachePaths, FitPaths, PartPaths, TrainingPaths, VectorPaths

if TYPE_CHECKING:
    from mllm_probe.files.comparison_paths import ComparisonPaths


def config_dir() -> Path:
    """conf/ inside an installed wheel, or beside the package in a checkout and an editable install."""
    package = Path(__file__).resolve().parents[1]
    return next(folder for folder in (package / "conf", package.parent / "conf") if (folder / "run.yaml").is_file())


STATUS = "status.json"
SIDES = GLOBAL, LOCAL = "global", "local"  # the two runs of a study


@dataclass(frozen=True)
class OutputPaths:
    """The folder `outputs/` that all runs share."""

    root: Path

    def dataset(self, name: str, digest: str) -> Path:
        return self.root / "datasets" / f"{name}-{digest}"

    @property
    def caches(self) -> Path:
        return self.root / "cache"

    def cache(self, identity: str) -> "CachePaths":
        return CachePaths(self.caches / identity)

    @property
    def latest(self) -> Path:
        """A link to the folder of the job or multirun that ran last."""
        return self.root / "latest"

    @property
    def digests(self) -> Path:
        return self.caches / DIGESTS

    @property
    def mlflow(self) -> Path:
        """The database of MLflow, and beside it the figures it keeps."""
        return self.root / "mlflow.db"

    @property
    def mlruns(self) -> Path:
        return self.root / "mlruns"

    def parts(self, run: str) -> "PartPaths":
        return PartPaths(self.root / "unfinished" / run)

    @property
    def fits(self) -> "FitPaths":
        return FitPaths(self.root / "fits")

    def training(self, run: str) -> "TrainingPaths":
        return TrainingPaths(self.root / "unfinished" / run)

    def vectors(self, encoder: str) -> "VectorPaths":
        return VectorPaths(self.root / "labels" / encoder)

    def comparison(self, now: datetime) -> "ComparisonPaths":
        """Named as Hydra names the folders of runs."""
        from mllm_probe.files.comparison_paths import ComparisonPaths

        return ComparisonPaths(self.root / "compare" / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S-%f}")


@dataclass(frozen=True)
class RunPaths:
    """The files of one run."""

    root: Path

    @property
    def scores(self) -> Path:
        return self.root / "scores.csv"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions.safetensors"

    def decided(self, kind: str) -> Path:
        """What the probe said of each decision, for people: `csv`, or `parquet` where it is large."""
        return self.root / f"predictions.{kind}"

    @property
    def probes(self) -> Path:
        return self.root / "probes.safetensors"

    @property
    def splits(self) -> Path:
        return self.root / "splits.csv"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def tests(self) -> Path:
        return self.root / "tests.csv"

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def identity(self) -> Path:
        """A copy of the cache's, so that two runs can be compared without their caches."""
        return self.root / "identity.json"

    @property
    def status(self) -> Path:
        return self.root / STATUS

    @property
    def examples(self) -> Path:
        """Some test decisions at the layer that validation chose, for people."""
        return self.root / "examples.json"

    @property
    def page(self) -> Path:
        return self.root / "report.html"

    def table(self, kind: str) -> Path:
        """The headline scores for a paper: `md`, `tex`."""
        return self.root / f"table.{kind}"

    def logged(self, logger: str) -> Path:
        """What a logger leaves in the folder of the run."""
        return self.root / logger

    def figure(self, kind: str) -> Path:
        return self.root / f"layers.{kind}"

    def features(self, kind: str) -> Path:
        return self.root / f"features.{kind}"

    def side(self, name: str) -> "RunPaths":
        """A run within this one: a task of a study, `global` or `local`, or what follows a training."""
        return RunPaths(self.root / name)

    @property
    def study(self) -> Path:
        return self.root / "study.json"

    def curves(self, kind: str) -> Path:
        return self.root / f"study.{kind}"

    def inspection(self, kind: str) -> Path:
        return self.root / f"inspect.{kind}"

    @property
    def geometry(self) -> Path:
        return self.root / "geometry.csv"

    def heatmaps(self, kind: str) -> Path:
        return self.root / f"geometry.{kind}"

    @property
    def fidelity(self) -> Path:
        return self.root / "fidelity.csv"

    def precision(self, kind: str) -> Path:
        return self.root / f"fidelity.{kind}"

    @property
    def effects(self) -> Path:
        return self.root / "effects.csv"

    @property
    def outcomes(self) -> Path:
        """Of interventions, statement by statement."""
        return self.root / "effects.safetensors"

    def changes(self, kind: str) -> Path:
        return self.root / f"effects.{kind}"

    def read_and_used(self, kind: str) -> Path:
        return self.root / f"read_and_used.{kind}"

    @property
    def regions(self) -> Path:
        """What is known at single picture tokens."""
        return self.root / "regions.csv"

    def places(self, kind: str) -> Path:
        return self.root / f"regions.{kind}"

    def lens(self, kind: str = "csv", of: str = "lens") -> Path:
        """`of` words: the nearest ones of some tokens; attention: where statements look; sinks: what draws it."""
        return self.root / f"{of}.{kind}"

    def grids(self, kind: str = "json") -> Path:
        """What probes see at every token of some pictures, and their figure."""
        return self.root / f"grids.{kind}"

    @property
    def alignment(self) -> Path:
        """Rows as in scores.csv, of another experiment."""
        return self.root / "alignment.csv"

    def alignments(self, kind: str) -> Path:
        return self.root / f"alignment.{kind}"

    @property
    def losses(self) -> Path:
        """Of a training, a row a step."""
        return self.root / "losses.csv"

    def curve(self, kind: str) -> Path:
        return self.root / f"losses.{kind}"

    @property
    def held_out(self) -> Path:
        """Of a trained model, a row a caption of a test picture."""
        return self.root / "held_out.csv"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint"

    @property
    def arms(self) -> Path:
        """Of a multirun of trainings: what each arm moved."""
        return self.root / "arms.csv"

    def differences(self, kind: str) -> Path:
        return self.root / f"arms.{kind}"

    @property
    def vision(self) -> Path:
        return self.root / "vision.csv"

    @property
    def representations(self) -> Path:
        """One row for each representation, as `vision fit` takes them; benchmarks are for the user to add."""
        return self.root / "representations.csv"

    @property
    def fit(self) -> Path:
        return self.root / "fit.csv"

    @property
    def groups(self) -> Path:
        """Means of fit.csv over groups of benchmarks."""
        return self.root / "groups.csv"

    @property
    def points(self) -> Path:
        """The representations on the plane of A and C, with what was measured and predicted."""
        return self.root / "points.csv"

    def surfaces(self, kind: str) -> Path:
        return self.root / f"fit.{kind}"

    @property
    def policy(self) -> Path:
        return self.root / "policy.csv"

    @property
    def recall(self) -> Path:
        return self.root / "recall.csv"

    def chosen(self, kind: str) -> Path:
        return self.root / f"policy.{kind}"

    def recalls(self, kind: str) -> Path:
        return self.root / f"recall.{kind}"


@dataclass(frozen=True)
class MultirunPaths:
    """The folder of a multirun, in it one folder per job."""

    root: Path

    @property
    def asked(self) -> Path:
        return self.root / "multirun.json"

    def log(self, name: str) -> Path:
        """What a job that was sent away says on its way; `name`: what it is called there."""
        return self.root / ".submitit" / name / f"{name}_0_log.err"

    def statuses(self) -> list[Path]:
        return sorted(self.root.rglob(STATUS))
