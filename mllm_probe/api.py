"""What the commands do, for scripts and notebooks: the same words, folders and numbers; results as tables and arrays.

Errors are those of mllm_probe.errors. Nothing heavy is imported before it is needed.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.cli.perform import limit_threads, perform
from mllm_probe.config.sentences import quoted
from mllm_probe.config.verbosity import QUIET, speaking
from mllm_probe.errors import CacheError, ConfigError, DataError, MllmProbeError
from mllm_probe.files.paths import GLOBAL, SIDES, OutputPaths, RunPaths

if TYPE_CHECKING:
    import pandas as pd

    from mllm_probe.cache.view import CacheView
    from mllm_probe.results.directions import LinearProbe


@dataclass(frozen=True)
class Result:
    """A finished run, read from its folder when it is asked for.

    A study has two tables: `scores` holds both, one below the other, `summary` is its study.json, and `sides` are its
    two runs.
    """

    folder: Path

    @property
    def scores(self) -> "pd.DataFrame":
        """See load_scores."""
        return load_scores(self.folder)

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json: the layer validation chose a position, its score and interval, baselines, versions, times."""
        from mllm_probe.results.score_file import load_summary

        return load_summary(self._paths.study if self.sides else self._paths.summary)

    @property
    def figure(self) -> Path:
        """The PNG of score against layer; beside it lies a PDF."""
        return self._paths.curves("png") if self.sides else self._paths.figure("png")

    @property
    def decisions(self) -> "pd.DataFrame":
        """What was scored, a row a decision: `decision`, `sample`, `label`, `group` (its picture), `test` (bool).

        In the order of the logits in predictions.safetensors; `sample` is the uid by which the cache knows it. Raises
        DataError for a run of a release that did not keep it.
        """
        import pandas as pd

        from mllm_probe.results.predictions import load_scored

        scored = load_scored(self._paths.predictions)
        if not scored.samples:
            raise DataError(
                f"{self._paths.predictions} is from an older release and names no samples; repeat the sweep"
            )
        columns = (scored.decisions, scored.samples, scored.labels, scored.groups, scored.test)
        return pd.DataFrame(dict(zip(("decision", "sample", "label", "group", "test"), columns, strict=True)))

    @property
    def predictions(self) -> "pd.DataFrame":
        """What the probe said of each decision at the layers that validation chose, a row for each position, seed and
        decision: its words, picture and label, the row, id and columns of your table, `said`, `right` (1, 0, or the
        share of a tie) and probabilities. Raises DataError for a run of a release that did not write it."""
        from mllm_probe.results.predictions import load_predictions

        return load_predictions(self._paths)

    def probe(self, key: str, seed: int | None = None) -> "LinearProbe":
        """The linear probe at a key such as lm.07@last, of a seed (None = the run's first): its `direction`, and what
        it makes of other rows. Raises ConfigError, DataError."""
        from mllm_probe.results.directions import load_probe
        from mllm_probe.results.predictions import load_scored
        from mllm_probe.results.selection import real

        rows = real(self.scores)
        first = min(int(each) for each in rows.seed if each != "all") if seed is None else seed
        scored = load_scored(self._paths.predictions)
        return load_probe(self._paths.probes, key, str(rows.probe.iloc[0]), first, scored.names, scored.kind)

    @property
    def cache(self) -> "CacheView":
        """The activations it was scored on."""
        return load_cache(self.folder)

    @property
    def sides(self) -> "tuple[Result, ...]":
        """Of a study, its global and its local run; else none."""
        return tuple(Result(self._paths.side(name).root) for name in SIDES if self._paths.study.is_file())

    @property
    def _paths(self) -> RunPaths:
        return RunPaths(self.folder)

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows of it."""
        return self.figure.read_bytes() if self.figure.is_file() else None


def run(*overrides: str, out: str | Path | None = None, quiet: bool = False) -> Result:
    """What `mllm-probe run` does with these words: extract, sweep, report.

    `run("task=objects", "dataset.pictures=60")` leaves the folder that the command would leave, with the same numbers
    in it. `out` is that folder (None = a new one in outputs/run); `quiet` says and prints nothing. Raises
    MllmProbeError.
    """
    return Result(_done("run", overrides, out, quiet))


def sweep(*overrides: str, out: str | Path | None = None, quiet: bool = False) -> Result:
    """What `mllm-probe sweep` does: fit and score probes on a cache that is filled. It prints no table.

    Arguments and errors as in `run`; CacheError where something has not been extracted.
    """
    return Result(_done("sweep", overrides, out, quiet))


def extract(*overrides: str, out: str | Path | None = None, quiet: bool = False) -> "CacheView":
    """What `mllm-probe extract` does, and the cache that it has filled. Arguments and errors as in `run`."""
    return load_cache(_done("extract", overrides, out, quiet))


def load_scores(folder: str | Path) -> "pd.DataFrame":
    """scores.csv of a run (its folder, a study's folder, or the file itself), with the dtypes of its contract.

    Text is str, "" where empty; counts int64; `layer` Int64 and `converged` boolean, <NA> for baselines; other numbers
    float64. Raises DataError.
    """
    import pandas as pd

    from mllm_probe.results import score_file as scores

    path = Path(folder)
    paths = RunPaths(path)
    sides = [paths.side(name).scores for name in SIDES] if paths.study.is_file() else [paths.scores]
    tables = [scores.load_scores(one) for one in (sides if path.is_dir() else [path])]
    return pd.concat([table.astype(scores.DTYPES) for table in tables], ignore_index=True)


def load_cache(folder: str | Path, outputs: str | Path | None = None) -> "CacheView":
    """A cache by its folder, by the folder of a run that read it, or by its identity (the name of its folder).

    `outputs` is where the caches are (None = what the run was told, else outputs). Raises CacheError, DataError.
    """
    from mllm_probe.cache.view import CacheView
    from mllm_probe.files.store_paths import CachePaths

    if CachePaths(Path(folder)).groups.is_dir():
        return CacheView(Path(folder))
    identity, told = _read_by(RunPaths(Path(folder))) or (str(folder), "outputs")
    caches = OutputPaths(Path(outputs or told))
    found = caches.cache(identity)
    if not found.groups.is_dir():
        known = sorted(path.name for path in caches.caches.glob("*") if CachePaths(path).groups.is_dir())
        raise CacheError(
            f"there is no cache {identity} in {caches.caches}, which has {', '.join(known) or 'none'}; "
            "give outputs=FOLDER, or the cache's folder"
        )
    return CacheView(found.root)


def _read_by(paths: RunPaths) -> tuple[str, str] | None:
    """The identity of the cache that a run, or both tasks of a study, read, and its paths.outputs; None for what is no
    run."""
    from mllm_probe.files.readback import read_config, read_entries

    for one in (paths, paths.side(GLOBAL)):
        if one.identity.is_file() and one.config.is_file():
            identity = read_entries(one.identity, {"digest": str})["digest"]
            return identity, str(read_config(one.config)["paths"]["outputs"])
    return None


def _done(command: str, overrides: tuple[str, ...], out: str | Path | None, quiet: bool) -> Path:
    """The folder of a job that has ended well. Raises MllmProbeError."""
    limit_threads()
    from mllm_probe.config.compose import worked

    for word in overrides:
        if word.startswith(("-", "hydra.mode=")):
            raise ConfigError(f"'{word}' is for the command line; call {command} once for each combination instead")
    place = [] if out is None else [f"hydra.run.dir={quoted(str(out))}"]
    with _hushed() if quiet else nullcontext():
        try:
            return worked(command, [*overrides, *place], lambda config, here: perform(command, config, here))
        except OSError as error:
            from mllm_probe.config.sentences import sentence

            raise MllmProbeError(sentence(command, error)) from error


@contextmanager
def _hushed() -> Iterator[None]:
    """No progress and no table; a notebook takes tables past stdout, so it is asked to keep them."""
    with speaking(QUIET):
        if "IPython" in sys.modules:
            from IPython.utils.capture import capture_output

            with capture_output(stderr=False):
                yield
        else:
            with redirect_stdout(StringIO()):
                yield
