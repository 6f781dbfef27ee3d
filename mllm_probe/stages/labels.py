"""Slices -> vectors of frozen encoders, each computed once and kept under outputs/labels/."""

from collections.abc import Sequence

from mllm_probe.data.documents import Slice
from mllm_probe.digests import Digests
from mllm_probe.label_settings import LabelSettings
from mllm_probe.paths import OutputPaths
from mllm_probe.protocols import Reporter
from mllm_probe.sugar.labels import SliceVectors


def slice_vectors(
    settings: LabelSettings,
    slices: Sequence[Slice],
    outputs: OutputPaths,
    device: str,
    digests: Digests,
    reporter: Reporter,
) -> SliceVectors:
    """Of every different slice, in the order in which they come first. Raises ConfigError, ModelError, CacheError."""
    raise NotImplementedError
