"""`mllm-probe align`: in which layers are a picture and a sentence about it similar? Nothing is trained.

Every picture and every caption passes through the model separately, so a similarity is a matching score; in one pass
the later of the two would depend on the earlier. States go through the cache, so a second run loads no model.
"""

from dataclasses import replace

from mllm_probe.cache.claims import clear
from mllm_probe.cache.store import write_json
from mllm_probe.config.geometry import AlignConfig
from mllm_probe.config.run import save_config
from mllm_probe.errors import ProbeError
from mllm_probe.experiment.fill import fill_all
from mllm_probe.experiment.prepare import prepare
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.seals import sealed
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import digest
from mllm_probe.records.score import NOT_APPLICABLE
from mllm_probe.report.align import show_alignment
from mllm_probe.results.align import best_layers
from mllm_probe.results.score_file import ScoreFile, load_scores
from mllm_probe.sugar.measures import Alignment, Sides, corrected, sides_of
from mllm_probe.sugar.request import check_align, check_experiment, galleries


def align(config: AlignConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command: extract both sides, then alignment.csv, a figure and a table.

    Raises ConfigError, DataError, ProbeError.
    """
    check_align(config)
    experiment = prepare(replace(config, controls=[]), paths, reporter)
    save_config(config, paths.config)
    check_experiment(experiment)
    asked = galleries(experiment, config)
    pictures, texts = sides_of(experiment, config, asked)
    alignment = Alignment(experiment, asked, config, reporter)
    kept = [experiment.outputs.parts(digest(alignment.run, name)) for name in ("pictures", "texts")]
    for side, place in zip((pictures, texts), kept, strict=True):
        side.attempts.begin(place)
    done = fill_all([pictures, texts], [config, config], reporter)
    sides = [Sides(pictures, texts), *map(Sides, pictures.variants, texts.variants)]
    rows = list(alignment.scores(sides))
    if all(row.metric == NOT_APPLICABLE for row in rows):
        raise ProbeError("no layer could be compared, see the notes above")
    ScoreFile(paths.alignment).replace(corrected([*alignment.baselines(), *rows]))
    best = best_layers(load_scores(paths.alignment))
    extraction = [side.attempts.summed(one) for side, one in zip((pictures, texts), done, strict=True)]
    told = {**alignment.facts, "extraction": extraction, "best": best}
    write_json(paths.summary, sealed(paths.summary, told, [paths.alignment]))
    for place in kept:
        clear(place)
    show_alignment(paths, reporter, config.report)
    for line in alignment.bounds_said():
        reporter.note(line)
