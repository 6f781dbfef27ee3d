"""The model that fills caches: loaded when the first shard needs it, and kept while the next cache is the same."""

from typing import TYPE_CHECKING

from mllm_probe.experiment.cache_identity import name_cache
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.records.protocols import Reporter

if TYPE_CHECKING:
    from mllm_probe.models.hf import HFModel


class Models:
    """At most one loaded model; experiments and controls that share a cache share it."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._held: dict[str, HFModel] = {}

    def get(self, experiment: Experiment) -> "HFModel":
        from mllm_probe.models.hf import load_model
        from mllm_probe.models.loading.device import pick_device

        name = experiment.identity.digest
        if name not in self._held:
            self._held.clear()  # before the next one takes its memory
            device = pick_device(experiment.device)
            self._reporter.note(f"loading {experiment.model.label} ({experiment.model.precision}) on {device}")
            self._held[name] = load_model(experiment.blueprint, device, experiment.stored)
            for remark in self._held[name].remarks:
                self._reporter.note(remark)
            name_cache(experiment.store, experiment.identity, experiment.model.label)
        self._held[name].require(experiment.stored)
        return self._held[name]
