"""`mllm-probe geometry`: how similar the layers of a filled cache are. Loads no model.

Rows are prompts, one of each group of pictures: rows of one picture or of near-duplicates are not independent,
image states are the same for all prompts about a picture, and a permutation null assumes exchangeable rows. So every
position has the same rows.
"""

from mllm_probe.config.geometry import GeometryConfig
from mllm_probe.config.run import sides_of
from mllm_probe.experiment.prepare import prepare
from mllm_probe.files.paths import RunPaths
from mllm_probe.geometry.measures import Atlas
from mllm_probe.geometry.refusals import check_geometry
from mllm_probe.geometry.samples import check_rows, draw_samples
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.geometry import show_geometry
from mllm_probe.results.geometry import save_relations


def geometry(config: GeometryConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command: geometry.csv, the heat maps and a short table. Raises ConfigError, ProbeError."""
    check_geometry(config)
    if config.local is not None:
        config = sides_of(config)[0]
        reporter.note("of a study geometry compares the layers of the first task; task=NAME chooses another")
    experiment = prepare(config, paths, reporter)
    settings = config.geometry
    pictures = experiment.collection.pictures
    samples = draw_samples(experiment.examples.samples, pictures, settings.max_rows, settings.seed)
    check_rows(len(samples), settings)
    groups = len({picture.group for picture in pictures})
    alike = f" (in {groups} groups, each counted once)" if groups < len(pictures) else ""
    reporter.note(
        f"geometry: {len(samples)} of {len(pictures)} pictures{alike}, one prompt of each, drawn by geometry.seed"
    )
    atlas = Atlas(experiment, settings, samples, reporter)
    save_relations(paths.geometry, [relation for name in settings.measures for relation in atlas.relations(name)])
    show_geometry(paths, reporter, config.report)
