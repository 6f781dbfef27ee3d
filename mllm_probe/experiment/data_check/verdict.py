"""Whether a run would use data, and why not; with what is told of them on the way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mllm_probe.config.build import build
from mllm_probe.config.run import RunConfig
from mllm_probe.errors import ConfigError, DataError, count
from mllm_probe.experiment.data_check.facts import Fact, labels_said, pictures_said, splits_said, table_said
from mllm_probe.experiment.examples import asked, collected, folds_of
from mllm_probe.experiment.test_dataset import Both, elsewhere_of, tested_elsewhere
from mllm_probe.files.digests import open_digests
from mllm_probe.files.paths import OutputPaths
from mllm_probe.records.protocols import Dataset, Task
from mllm_probe.records.samples import Examples


@dataclass
class Checked:
    """What is told of the data, a row each; `refusal` says why a run of the task would not take it."""

    task: str
    facts: list[Fact] = field(default_factory=list)
    refusal: str = ""

    def note(self, text: str) -> None:
        """As the reporter of a run is told it."""
        self.facts.append(tuple(text.split(": ", 1)) if text.startswith("skipped: ") else ("note", text))  # type: ignore[arg-type]

    def progress(self, what: str, done: int, total: int, unit: str) -> None:
        """Nothing takes long here."""


class _Readable:
    """In the place of a model, whose processor is not asked about odd sizes here."""

    def refusal(self, path: Path) -> None:
        return None


def checked(place: Path, config: RunConfig) -> Checked:
    """Raises ConfigError, DataError where nothing can be read at all."""
    plugins = tuple(config.plugins)
    skipping = replace(config, data=replace(config.data, on_bad_row="skip"))
    dataset: Dataset = build(config.dataset, Dataset, plugins)  # type: ignore[type-abstract]
    task: Task = build(config.task, Task, plugins, seed=config.data.seed, on_bad_row="skip")  # type: ignore[type-abstract]
    found, other, folds = Checked(task.name), elsewhere_of(config), folds_of(config)
    digests = open_digests(OutputPaths(Path(config.paths.outputs)).digests, config.cache.trust)
    if place.is_file():
        found.facts += table_said(place)
    if other is None:
        whole = collected(dataset, skipping, digests, found, _Readable)  # type: ignore[arg-type]
        found.facts += pictures_said(whole, config.data.n)
        _judge(found, config, whole.skipped, lambda: asked(task, folds, whole, skipping, found))
        return found
    both = Both.of(dataset, other, skipping, digests, found, _Readable)  # type: ignore[arg-type]
    for one, which in ((both.home, ""), (both.there, "tested ")):
        found.facts += [(which + what, said) for what, said in pictures_said(one, config.data.n)]
    skipped = (*both.home.skipped, *both.there.skipped)
    _judge(found, config, skipped, lambda: tested_elsewhere(task, folds, both, skipping, found)[1])
    return found


def _judge(found: Checked, config: RunConfig, skipped: Sequence[str], make: Callable[[], Examples]) -> None:
    """What is asked about the pictures, or why a run would refuse it."""
    if skipped and config.data.on_bad_row == "stop":
        bad = count(len(skipped), "bad row")
        found.refusal = f"a run stops at the first of {bad}; fix them, or leave them out with data.on_bad_row=skip"
    try:
        examples = make()
        found.facts += [*labels_said(examples), *splits_said(config, examples)]
        folds_of(config).check(examples, config.sweep.seeds)
    except (ConfigError, DataError) as error:
        found.refusal = str(error)
