"""`mllm-probe report`: page, tables and figures of a finished command again, from its files."""

from importlib import import_module
from pathlib import Path

from mllm_probe.config.report import FIGURES
from mllm_probe.config.run import ReportConfig
from mllm_probe.errors import ConfigError
from mllm_probe.files.paths import MultirunPaths, RunPaths
from mllm_probe.files.readback import blamed
from mllm_probe.records.protocols import Reporter


def report(config: ReportConfig, reporter: Reporter) -> None:
    """Raises ConfigError, DataError."""
    config.report.check()
    if config.run is None:
        raise ConfigError("report needs a FOLDER, or run=FOLDER, the folder of a finished run (it holds scores.csv)")
    paths = RunPaths(Path(config.run))
    kinds = {  # {file: what shows it, in report}
        MultirunPaths(paths.root).asked: "arms.show_arms",
        paths.study: "study.show_study",
        paths.scores: "run.show",
        paths.geometry: "geometry.show_geometry",
        paths.fidelity: "fidelity.show_fidelity",
        paths.effects: "effects.show_effects",
        paths.regions: "regions.show_regions",
        paths.lens(): "lens.show_lens",
        paths.lens(of="attention"): "attention.show_attention",
        paths.alignment: "align.show_alignment",
        paths.losses: "tune.show_training",
        paths.vision: "vision.show_vision",
        paths.fit: "law.show_fit",
        paths.policy: "policy.show_policy",
    }
    found = next((file for file in kinds if file.is_file()), paths.scores)
    if found not in (paths.study, paths.scores):
        config.report.check_followed(*(() if found == paths.vision else FIGURES))  # which has no figure
    module, _, name = kinds[found].rpartition(".")
    with blamed(paths.root):
        getattr(import_module(f"mllm_probe.report.{module}"), name)(paths, reporter, config.report)
