"""Names of runs side by side: the model, and the other settings that distinguish them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mllm_probe.comparison.finished import FinishedRun
from mllm_probe.config.run import NOT_SCIENCE
from mllm_probe.config.sentences import show
from mllm_probe.files.model_names import ADDRESS, namesakes

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 40  # characters of a setting in a label
CHECKPOINT = ("bundled", "path", "hub_id", "revision", "download_gb")
MODEL = ("name", *CHECKPOINT, "weights", "placement", "keep_dequantised", "trust_remote_code")
# what has a word of its own below, or is no part of the result
HIDDEN = (
    *(name for name in NOT_SCIENCE if name != "model"),
    *(f"model.{name}" for name in (*MODEL, "quantization")),
    *(f"{group}._target_" for group in ("dataset", "task", "probe")),
)


class Finished(Protocol):
    """What tells a run, or an intervention, from others: its summary, its settings by dotted name, its rows."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> Mapping[str, Any]: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def rows(self) -> "pd.DataFrame": ...


def labelled(runs: Sequence[FinishedRun]) -> tuple[list[FinishedRun], list[str]]:
    """The runs of one task, each with a label of its own, and the settings that differ although no label says so."""
    labels, unsaid = labels_of(runs)
    return [replace(run, label=label) for run, label in zip(runs, labels, strict=True)], unsaid


def labels_of(runs: Sequence[Finished]) -> tuple[list[str], list[str]]:
    """The labels, and the settings that differ although no label says so. Settings are added only until all differ."""
    labels, unsaid = [str(run.summary["model"]) for run in runs], []
    for name, values in _settings(runs):
        longer = [f"{label} {_cut(value)}" for label, value in zip(labels, values, strict=True)]
        if len(set(longer)) > len(set(labels)):
            labels = longer
        elif name and len(set(values)) > 1:
            unsaid.append(name)
    return labels, unsaid


def shared_name(runs: Sequence[FinishedRun]) -> str | None:
    """What to do about different models that have one name, None where each has its own."""
    models = {str(run.summary["cache"]): run for run in runs}.values()
    named = [(str(run.summary["model"]), {s: run.settings.get(f"model.{s}") for s in ADDRESS}) for run in models]
    if (found := namesakes(named)) is None:
        return None
    name, setting = found
    return (
        f"models with different model.{setting} are all called {name}; to give each its own name, repeat its command "
        "with model.name=NAME (its activations are in the cache)"
    )


def _settings(runs: Sequence[Finished]) -> Iterator[tuple[str, list[str]]]:
    """What may tell runs apart, the likeliest first; what nobody need be told has no name. The digests always do."""
    yield "", _tails([_checkpoint(run) for run in runs])
    for column, name in (("quantization", "model.quantization"), ("probe", "probe"), ("dataset", "dataset")):
        if column in runs[0].rows:
            yield name, [str(run.rows[column].iloc[0]) for run in runs]
    for name in runs[0].settings:
        if _matters(name) and all(name in run.settings for run in runs):
            yield name, [f"{name}={show(run.settings[name])}" for run in runs]
    if "versions" in runs[0].summary:
        yield "mllm-probe", [f"mllm-probe={run.summary['versions']['mllm-probe']}" for run in runs]
    yield "", _tails([_table(run) for run in runs])
    yield "", [str(run.summary["run"])[:8] for run in runs]
    yield "", _tails([run.name for run in runs])  # copies


def _cut(value: str) -> str:
    return value if len(value) <= LONGEST else f"{value[: LONGEST - 3]}..."


def _matters(name: str) -> bool:
    return not any(name == one or name.startswith(f"{one}.") for one in HIDDEN)


def _checkpoint(run: Finished) -> str:
    found = (run.settings.get(f"model.{where}") for where in ("path", "hub_id", "bundled"))
    return str(next(filter(None, found), ""))


def _table(run: Finished) -> str:
    """The file that is tested, or the folder of the data set."""
    tested = "test.dataset" if run.settings.get("test.dataset._target_") else "dataset"
    named = (run.settings.get(f"{tested}.{name}") for name in ("root", "file"))
    return "/".join(str(one) for one in named if one)


def _tails(paths: Sequence[str]) -> list[str]:
    """The shortest ends of paths that are as different as the paths."""
    parts = [Path(path).parts for path in paths]
    for length in range(1, max(map(len, parts))):
        tails = ["/".join(one[-length:]) for one in parts]
        if len(set(tails)) == len(set(paths)):
            return tails
    return list(paths)
