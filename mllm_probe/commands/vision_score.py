"""`mllm-probe vision score`: how well vision encoders suit a multimodal model, without training one.

The C score (correspondence), the A scores (alignment, of models whose connectors are trained already) and further
measures, for each representation. Features are not stored: each encoder sees each picture once or twice in a run, a
category's features are dropped when its pairs are matched, and a disk would hold 1 MB for each picture and layer.
"""

from mllm_probe.config.run import save_config
from mllm_probe.config.vision import VisionScoreConfig
from mllm_probe.errors import ProbeError
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import load_rows, save_rows
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.vision import show_vision
from mllm_probe.results.vision import VisionScore, save_representations
from mllm_probe.vision.measures import of_encoders, of_models
from mllm_probe.vision.request import ask


def vision_score(config: VisionScoreConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command: vision.csv and a table. Raises ConfigError, DataError, ModelError, ProbeError."""
    asked = ask(config, reporter)
    save_config(config, paths.config)
    rows = [*of_encoders(asked, reporter), *of_models(asked, reporter)]
    if not rows:
        raise ProbeError("no measure could be taken, see the notes above")
    save_rows(paths.vision, VisionScore, rows)
    save_representations(paths.representations, load_rows(paths.vision, VisionScore))
    show_vision(paths, reporter)
