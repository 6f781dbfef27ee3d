"""Directions and erasers of every site, fitted on what the cache holds of training pictures. Extracts nothing."""

from collections.abc import Mapping

from mllm_probe.experiment.experiment import Experiment, filled
from mllm_probe.fitting.readout import Source
from mllm_probe.fitting.trials import Probing
from mllm_probe.probes.directions import Directions, Erasers, directions_of, erasers_of
from mllm_probe.probes.logistic import Logistic
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.sites import Key, Site


def directions(
    experiment: Experiment,
    probing: Probing,
    position: str,
    draws: int,
    sites: list[Site],
    seed: int,
    reporter: Reporter,
) -> Mapping[Site, Directions]:
    """Of rows at a position, and `draws` random ones, of the first of sweep.seeds, which says which pictures train.
    Raises CacheError, ProbeError."""
    source, first, found = Source(experiment, filled(experiment)), probing.seeds[0], dict[Site, Directions]()
    probe = experiment.probe if isinstance(experiment.probe, Logistic) else None
    control = None if probing.control_labels is None else probing.problem("control_task", first)
    for done, site in enumerate(sites):
        readout = source.readout(Key(site, position))
        own = control and readout.problem(control)
        problem = readout.problem(probing.problem("", first))
        found[site] = directions_of(readout.data, problem, own, draws, seed, probe)
        reporter.progress("directions", done + 1, len(sites), "sites")
    return found


def erasers(
    experiment: Experiment,
    probing: Probing,
    position: str,
    draws: int,
    sites: list[Site],
    seed: int,
    reporter: Reporter,
) -> Mapping[Site, Erasers]:
    """The same."""
    source, found = Source(experiment, filled(experiment)), dict[Site, Erasers]()
    for done, site in enumerate(sites):
        readout = source.readout(Key(site, position))
        problem = readout.problem(probing.problem("", probing.seeds[0]))
        found[site] = erasers_of(readout.data, problem, draws, seed)
        reporter.progress("erasers", done + 1, len(sites), "sites")
    return found
