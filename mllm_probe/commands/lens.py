"""`mllm-probe lens`: the words that single picture tokens stand for, layer by layer, judged by what lies there; or
where statements look.

States come from the cache, which `run task=regions` fills, too; the model is loaded for its words, or its attention.
"""

from dataclasses import asdict

from mllm_probe.cache.store import write_json
from mllm_probe.config.lens import ATTENTION, LensConfig
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.experiment.fill import fill_all
from mllm_probe.experiment.prepare import prepare
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.seals import sealed
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import digest
from mllm_probe.report.attention import show_attention
from mllm_probe.report.lens import show_lens
from mllm_probe.results.lenses.attention import Attention, Sink, save_attention, save_sinks
from mllm_probe.results.lenses.lens import LATENT, Lens, Word, save_lens, save_words
from mllm_probe.spatial.grid_file import save_grids
from mllm_probe.spatial.lenses.asked import statements_of
from mllm_probe.spatial.lenses.nearest import Reading, Request, named_field, shown_tokens
from mllm_probe.spatial.lenses.over_pictures import word_grids
from mllm_probe.spatial.lenses.request import check_lens, check_lens_reads, for_attention
from mllm_probe.spatial.lenses.said import facts
from mllm_probe.spatial.lenses.text_index import Texts, read_by
from mllm_probe.spatial.lenses.told import facts_of
from mllm_probe.spatial.lenses.watched import Watched, check_readable, size_said


def lens(config: LensConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command: the states of picked tokens, their nearest words, then lens.csv, words.csv, a figure and a table.
    Raises MllmProbeError."""
    check_lens(config)
    if config.lens == [ATTENTION]:
        _attention(for_attention(config), paths, reporter)
        return
    experiment = prepare(config, paths, reporter, early=check_lens_reads, picking=True)
    request = _request(experiment, config, reporter)
    sides = [] if request.texts is None else [request.texts.side(experiment)]
    fill_all([experiment, *sides], [config] * (1 + len(sides)), reporter)
    rows, words = _read(experiment, request, reporter)
    save_lens(paths.lens(), rows)
    save_words(paths.lens(of="words"), words)
    sites = [str(key.site) for key in read_by(experiment)]
    save_grids(paths.grids(), word_grids(experiment, request.field, request.shown, sites, paths.root))
    told, kept = facts(experiment, request, rows), (paths.lens(), paths.lens(of="words"), paths.grids())
    write_json(paths.summary, sealed(paths.summary, told, kept))
    show_lens(paths, reporter, config.report)


def _attention(config: LensConfig, paths: RunPaths, reporter: Reporter) -> None:
    """What statements attend to, in one model after the other; the maps are the experiment's own. Raises
    MllmProbeError."""
    experiment, settings = prepare(config, paths, reporter, early=check_lens_reads, picking=True), config.attention
    check_readable(experiment)
    statements = statements_of(experiment, settings.pictures, settings.seed, settings.neutral)
    reporter.note(size_said(experiment, statements, settings))
    run = digest(experiment.run, config.lens, asdict(settings))
    rows: list[Attention] = []
    sinks: list[Sink] = []
    for each in (experiment, *experiment.variants):
        found = Watched.read(each, statements, settings, run, reporter)
        rows, sinks = [*rows, *found.rows()], [*sinks, *found.sinks()]
        if not each.control:
            found.save_maps(paths.lens("safetensors", ATTENTION))
            save_grids(paths.grids(), found.grids(paths.root))
    save_attention(paths.lens(of=ATTENTION), rows)
    save_sinks(paths.lens(of="sinks"), sinks)
    told, files = facts_of(experiment, statements, rows, sinks, settings.neutral), (ATTENTION, "sinks")
    kept = [*(paths.lens(of=name) for name in files), paths.grids()]
    write_json(paths.summary, sealed(paths.summary, told, kept))
    show_attention(paths, reporter, config.report)


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
