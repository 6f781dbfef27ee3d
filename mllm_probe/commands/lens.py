"""`mllm-probe lens`: the words that single picture tokens stand for, layer by layer, judged by what lies there.

States come from the cache, which `run task=regions` fills, too; the model is loaded for its words.
"""

from dataclasses import asdict

from mllm_probe.cache.store import write_json
from mllm_probe.config.lens import LensConfig
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.experiment.fill import fill_all
from mllm_probe.experiment.prepare import prepare
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.seals import sealed
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import digest
from mllm_probe.report.lens import show_lens
from mllm_probe.results.lens import LATENT, Lens, Word, save_lens, save_words
from mllm_probe.spatial.lenses.nearest import Reading, Request, named_field, shown_tokens
from mllm_probe.spatial.lenses.request import check_lens, check_lens_reads
from mllm_probe.spatial.lenses.said import facts
from mllm_probe.spatial.lenses.text_index import Texts


def lens(config: LensConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command: the states of picked tokens, their nearest words, then lens.csv, words.csv, a figure and a table.
    Raises MllmProbeError."""
    check_lens(config)
    experiment = prepare(config, paths, reporter, early=check_lens_reads, picking=True)
    request = _request(experiment, config, reporter)
    sides = [] if request.texts is None else [request.texts.side(experiment)]
    fill_all([experiment, *sides], [config] * (1 + len(sides)), reporter)
    rows, words = _read(experiment, request, reporter)
    save_lens(paths.lens(), rows)
    save_words(paths.words, words)
    told = facts(experiment, request, rows)
    write_json(paths.summary, sealed(paths.summary, told, (paths.lens(), paths.words)))
    show_lens(paths, reporter, config.report)


def _request(experiment: Experiment, config: LensConfig, reporter: Reporter) -> Request:
    """What is read, once all that can be wrong without the model is refused."""
    field, names, spellings, said = named_field(experiment)
    texts = Texts.of(experiment, config.words.seed) if LATENT in config.lens else None
    if said:
        reporter.note(said)
    if texts is not None:
        reporter.note(texts.check(experiment, config.words.max_index_gb))
    run = digest(experiment.run, config.lens, asdict(config.words))
    shown = shown_tokens(experiment, field, config.words.pictures)
    return Request(config, field, names, spellings, texts, run, shown)


def _read(experiment: Experiment, request: Request, reporter: Reporter) -> tuple[list[Lens], list[Word]]:
    """One model after the other."""
    rows: list[Lens] = []
    words: list[Word] = []
    models = (experiment, *experiment.variants)
    for number, each in enumerate(models):
        reading = Reading.opened(request, each, reporter)
        for done, (own, shown) in enumerate(reading.rows(), 1):
            rows, words = rows + own, words + shown
            whole = len(reading.keys)
            reporter.progress("lens", number * whole + done, len(models) * whole, "keys")
    return rows, words
