"""What `geometry` and `fidelity` refuse before any file is read."""

from mllm_probe.config.geometry import BASE, REFERENCES, FidelityConfig, GeometryConfig
from mllm_probe.config.model import DTYPES
from mllm_probe.config.report import FIGURES
from mllm_probe.config.run import refuse_two
from mllm_probe.errors import ConfigError, choices
from mllm_probe.geometry.measures import MEASURES
from mllm_probe.geometry.row_checks import FEWEST
from mllm_probe.geometry.samples import refuse_tokens


def check_geometry(config: GeometryConfig) -> None:
    """Raises ConfigError."""
    config.report.check_followed(*FIGURES)
    settings, positions = config.geometry, config.extract.positions
    for name in settings.measures:
        if name not in MEASURES:
            raise ConfigError(f"geometry.measures names the unknown measure '{name}'; {choices(name, MEASURES)}")
    if not settings.measures or len(set(settings.measures)) < len(settings.measures):
        raise ConfigError(f"geometry.measures={settings.measures} must hold at least one measure, each once")
    for name, least in (("max_rows", FEWEST), ("k", 1), ("components", 1), ("seed", 0)):
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


def check_fidelity(config: FidelityConfig) -> None:
    """Raises ConfigError."""
    config.report.check_followed(*FIGURES)
    settings = config.fidelity
    if settings.reference not in REFERENCES:
        raise ConfigError(
            f"fidelity.reference={settings.reference} is unknown; {choices(settings.reference, REFERENCES)}"
        )
    if settings.reference == BASE:
        if config.model.adapter is None or settings.dtype is not None:
            raise ConfigError(
                "fidelity.reference=base compares an adapted model with itself without the adapter, with the same "
                "quantisation; give model.adapter=FOLDER and no fidelity.dtype"
            )
    elif settings.dtype is not None and settings.dtype not in DTYPES:
        raise ConfigError(f"fidelity.dtype={settings.dtype} is unknown; {choices(settings.dtype, DTYPES)}")
    elif config.model.precision == "none" and settings.dtype in (None, config.model.dtype):
        raise ConfigError(
            f"fidelity would compare {config.model.dtype} with itself; set model.quantization=nf4 or int8, or another "
            "precision of the reference with fidelity.dtype=float32"
        )
    refuse_two(config, "fidelity")
    refuse_tokens(config.extract.positions, "fidelity")
