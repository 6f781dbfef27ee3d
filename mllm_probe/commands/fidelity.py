"""`mllm-probe fidelity`: the same examples read by a model, and by the same model before quantisation or adaptation.

What a layer's states lose, and how that changes the probe's curve. Both caches are ordinary ones, so a run of either
model finds its states there.
"""

from dataclasses import replace

from mllm_probe.config.geometry import FidelityConfig
from mllm_probe.experiment.fill import fill_all
from mllm_probe.experiment.prepare import prepare
from mllm_probe.files.paths import RunPaths
from mllm_probe.fitting.resume import LOGITS, Parts
from mllm_probe.geometry.fidelity import Agreements, corrected, reference_of
from mllm_probe.geometry.refusals import check_fidelity
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.fidelity import show_fidelity
from mllm_probe.results.fidelity import save_agreements
from mllm_probe.scoring.guards import check_probe, check_reads


def fidelity(config: FidelityConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command: extract both sides, then fidelity.csv, its figure and a table. Raises ConfigError, CacheError."""
    check_fidelity(config)
    config = replace(config, controls=[])
    experiment = prepare(config, paths, reporter, early=check_reads)
    check_probe(experiment, config.report)
    reference = reference_of(experiment, config)
    fill_all([experiment, reference], [config, replace(config, model=reference.model)], reporter)
    agreements = Agreements(experiment, reference, config.fidelity)
    parts = Parts(experiment.outputs.parts(agreements.run))
    with parts.turn(reporter):
        save_agreements(paths.fidelity, corrected(list(agreements.rows(parts, reporter))))
        parts.join(LOGITS, paths.predictions, agreements.scored.metadata())
    parts.clear()
    show_fidelity(paths, reporter, config.report)
