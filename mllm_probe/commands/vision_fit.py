"""`mllm-probe vision fit`: how well alignment and correspondence explain the scores of vision representations.

Reads a table, loads no model.
"""

from mllm_probe.config.run import save_config
from mllm_probe.config.vision import VisionFitConfig
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import save_rows
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.law import show_fit
from mllm_probe.results.vision import GroupRow, LawRow, PointRow
from mllm_probe.vision.encoder_table import open_table, table_digest
from mllm_probe.vision.law_rows import check_fit, groups, laws, points


def vision_fit(config: VisionFitConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command: fit.csv, groups.csv, points.csv, the figure and a table. Raises ConfigError, DataError."""
    settings = config.fit
    check_fit(settings)
    table = open_table(settings, reporter)
    run = table_digest(table, settings)
    fitted = [row for benchmark in table.benchmarks for row in laws(run, benchmark, settings)]
    save_rows(paths.fit, LawRow, fitted)
    save_rows(paths.groups, GroupRow, list(groups(run, fitted, settings)))
    save_rows(paths.points, PointRow, [row for benchmark in table.benchmarks for row in points(run, table, benchmark)])
    save_config(config, paths.config)
    show_fit(paths, reporter)
