"""`mllm-probe fidelity`: the same examples read by a model and by what it was before it was quantised, or adapted.

What a layer's states lose, and what that does to the probe's curve. Both caches are ordinary ones, so a run of either
model finds its states there.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mllm_probe.config.geometry import BASE, REFERENCES, FidelityConfig
from mllm_probe.config.model import DTYPES
from mllm_probe.config.report import FIGURES
from mllm_probe.errors import ConfigError, choices
from mllm_probe.experiment.controls import loaded_otherwise
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.experiment.fill import fill_all
from mllm_probe.experiment.prepare import prepare
from mllm_probe.files.digests import open_digests
from mllm_probe.files.paths import RunPaths
from mllm_probe.fitting.resume import LOGITS, Parts
from mllm_probe.geometry.fidelity import Agreements, corrected
from mllm_probe.geometry.samples import refuse_tokens
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.fidelity import show_fidelity
from mllm_probe.results.fidelity import Agreement, save_agreements
from mllm_probe.scoring.refusals import check_probe, check_reads


def fidelity(config: FidelityConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command: extract both sides, then fidelity.csv, its figure and a table. Raises ConfigError, CacheError."""
    check_settings(config)
    config = replace(config, controls=[])
    experiment = prepare(config, paths, reporter, early=check_reads)
    check_probe(experiment, config.report)
    reference = _reference(experiment, config)
    fill_all([experiment, reference], [config, replace(config, model=reference.model)], reporter)
    agreements = Agreements(experiment, reference, config.fidelity)
    parts = Parts(experiment.outputs.parts(agreements.run))
    with parts.turn(reporter):
        save_agreements(paths.fidelity, corrected(list(_rows(agreements, experiment, parts, reporter))))
        parts.join(LOGITS, paths.predictions, agreements.scored.metadata())
    parts.clear()
    show_fidelity(paths, reporter, config.report)


def check_settings(config: FidelityConfig) -> None:
    """Raises ConfigError for what can be seen before any file is read."""
    config.report.check_followed(*FIGURES)
    settings = config.fidelity
    if settings.reference not in REFERENCES:
        raise ConfigError(
            f"fidelity.reference={settings.reference} is unknown; {choices(settings.reference, REFERENCES)}"
        )
    if settings.reference == BASE:
        if config.model.adapter is None or settings.dtype is not None:
            raise ConfigError(
                "fidelity.reference=base compares an adapted model with itself without the adapter, quantised alike; "
                "give model.adapter=FOLDER and no fidelity.dtype"
            )
    elif settings.dtype is not None and settings.dtype not in DTYPES:
        raise ConfigError(f"fidelity.dtype={settings.dtype} is unknown; {choices(settings.dtype, DTYPES)}")
    elif config.model.precision == "none" and settings.dtype in (None, config.model.dtype):
        raise ConfigError(
            f"fidelity would compare {config.model.dtype} with itself; set model.quantization=nf4 or int8, or another "
            "precision of the reference with fidelity.dtype=float32"
        )
    if config.local is not None:
        raise ConfigError("fidelity reads one task; leave out `local`, or choose no experiment that sets it")
    refuse_tokens(config.extract.positions, "fidelity")


def _reference(experiment: Experiment, config: FidelityConfig) -> Experiment:
    digests = open_digests(experiment.outputs.digests, config.cache.trust)
    if config.fidelity.reference == BASE:
        other: dict[str, Any] = {"adapter": None}
    else:
        other = {"quantization": "none", "dtype": config.fidelity.dtype or config.model.dtype}
    reference = loaded_otherwise(experiment, digests, **other)
    digests.save()
    return reference


def _rows(agreements: Agreements, experiment: Experiment, parts: Parts, reporter: Reporter) -> Iterator[Agreement]:
    for done, key in enumerate(experiment.keys):
        yield from agreements.states(key)
        yield from agreements.scores(key, parts.get(str(key), lambda key=key: agreements.trials(key)))  # type: ignore[misc]
        reporter.progress("fidelity", done + 1, len(experiment.keys), "keys")
    yield from map(agreements.answers, experiment.answer_keys)
