"""How results are shown: the settings under `report` of `run` and of `report`. Changes no number."""

from dataclasses import dataclass

from mllm_probe.errors import ConfigError, choices

PICTURES = NONE, THUMBS, FULL = "none", "thumbs", "full"
STYLES = SCREEN, PAPER = "screen", "paper"


@dataclass
class ReportSettings:
    """`pictures` of the examples in report.html: none, thumbs, or full as the data set has them. `style` of the
    figures: screen, or paper for a column of 3.3 inches, 8 point, without a title."""

    pictures: str = THUMBS
    style: str = SCREEN

    def check(self) -> None:
        """Raises ConfigError."""
        for name, allowed in (("pictures", PICTURES), ("style", STYLES)):
            if (value := getattr(self, name)) not in allowed:
                raise ConfigError(f"report.{name}={value} is unknown; {choices(value, allowed)}")
