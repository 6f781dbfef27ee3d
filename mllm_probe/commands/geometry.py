"""`mllm-probe geometry`: how the layers of a filled cache lie to each other. Loads no model.

Rows are prompts, one of each group of pictures: rows of one picture or of near-duplicates are no independent rows,
image states are the same for all prompts about a picture, and a permutation null takes rows for exchangeable. So every
position has the same rows.
"""

from mllm_probe.config.geometry import GeometryConfig
from mllm_probe.config.report import FIGURES
from mllm_probe.errors import ConfigError, choices
from mllm_probe.experiment.prepare import prepare
from mllm_probe.files.paths import RunPaths
from mllm_probe.geometry.measures import MEASURES, Atlas
from mllm_probe.geometry.row_checks import FEWEST
from mllm_probe.geometry.samples import check_rows, draw_samples, refuse_tokens
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.geometry import show_geometry
from mllm_probe.results.geometry import save_relations


def geometry(config: GeometryConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command: geometry.csv, the heat maps and a short table. Raises ConfigError, ProbeError."""
    check_settings(config)
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


def check_settings(config: GeometryConfig) -> None:
    """Raises ConfigError for what can be seen before any file is read."""
    config.report.check_followed(*FIGURES)
    settings, positions = config.geometry, config.extract.positions
    for name in settings.measures:
        if name not in MEASURES:
            raise ConfigError(f"geometry.measures names the unknown measure '{name}'; {choices(name, MEASURES)}")
    if not settings.measures or len(set(settings.measures)) < len(settings.measures):
        raise ConfigError(f"geometry.measures={settings.measures} must hold at least one measure, each once")
    for name, least in (("max_rows", FEWEST), ("k", 1), ("components", 1), ("permutations", 0), ("seed", 0)):
        if (value := getattr(settings, name)) is not None and value < least:
            raise ConfigError(f"geometry.{name}={value} must be {least} or more")
    if settings.clip is not None and not settings.clip > 0:
        raise ConfigError(f"geometry.clip={settings.clip} must be above 0, or null to clip nothing")
    for pair in settings.across:
        if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(positions):
            raise ConfigError(
                f"geometry.across={settings.across} must hold pairs of positions from extract.positions: "
                f"{', '.join(positions)}"
            )
    refuse_tokens(positions, "geometry")
