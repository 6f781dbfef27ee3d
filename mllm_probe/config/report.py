"""How results are shown: the settings under `report` of `run` and of `report`. Changes no number."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mllm_probe.errors import ConfigError, choices
from mllm_probe.records.sites import TOWERS

PICTURES = NONE, THUMBS, FULL = "none", "thumbs", "full"
STYLES = SCREEN, PAPER = "screen", "paper"
AUTO = "auto"
METRICS = (  # and all that mllm_probe.stats.measures takes of any kind of label
    AUTO,
    "accuracy",
    "balanced_accuracy",
    "auroc",
    "average_precision",
    "nll",
    "ece",
    "f1",
    "r2",
    "mae",
    "spearman",
)
FIGURES = ("style", "size", "font")  # what every figure follows
SMALLEST, LARGEST = 1, 40  # inches of a figure
NO_LETTERS = "Last Resort"  # a font that has a box for every character


@dataclass
class ReportSettings:
    """`pictures` of the examples in report.html: none, thumbs, or full as in the data set. `style` of the figures:
    screen, or paper for a column of 3.3 inches, 8 point, without a title.

    `metric` is the measure shown in page, tables, figures and curves (auto: the one that chose the layers, which
    sentences and tests keep); `positions` and `towers` are the ones shown (null = all that were read); `size` is width
    and height of each figure in inches (null = a fitting size), `font` an installed font (null = DejaVu Sans, and other
    fonts for characters that it lacks).
    """

    pictures: str = THUMBS
    style: str = SCREEN
    metric: str = AUTO
    positions: list[str] | None = None
    towers: list[str] | None = None
    size: list[float] | None = None
    font: str | None = None

    def check(self) -> None:
        """Raises ConfigError."""
        for name, allowed in (("pictures", PICTURES), ("style", STYLES)):
            if (value := getattr(self, name)) not in allowed:
                raise ConfigError(f"report.{name}={value} is unknown; {choices(value, allowed)}")
        if self.metric not in METRICS:
            raise ConfigError(f"report.metric={self.metric} is unknown; {choices(self.metric, METRICS)}")
        for tower in self.towers or ():
            if tower not in TOWERS:
                raise ConfigError(f"report.towers names the unknown tower '{tower}'; {choices(tower, TOWERS)}")
        check_size(self.size, f"report.size={self.size}", "report.size=[7,4]")
        if self.font is not None and self.font not in (known := installed_fonts()):
            raise ConfigError(f"report.font={self.font} is not installed; {choices(self.font, known)}")

    def check_followed(self, *followed: str) -> None:
        """Raises ConfigError for a setting that results, which follow those named, do not follow."""
        for name, usual in vars(DEFAULT).items():
            if name not in followed and getattr(self, name) != usual:
                why = "no figure is drawn" if name in FIGURES else "it is for the results of `mllm-probe run`"
                raise ConfigError(f"report.{name} does nothing here; {why}")

    def check_read(self, positions: Collection[str], towers: Collection[str]) -> None:
        """Raises ConfigError for what will not be read."""
        for name, read in (("positions", positions), ("towers", towers)):
            for one in getattr(self, name) or ():
                if one not in read:
                    raise ConfigError(
                        f"report.{name} names '{one}', which this run does not read; {choices(one, read)}"
                    )


def check_size(size: Sequence[float] | None, named: str, example: str) -> None:
    """Raises ConfigError unless it is width and height in inches, or None."""
    if size is not None and (len(size) != 2 or not all(SMALLEST <= inches <= LARGEST for inches in size)):
        raise ConfigError(
            f"{named} must be width and height in inches, each from {SMALLEST} to {LARGEST}, as {example} is"
        )


def installed_fonts() -> dict[str, str]:
    """{family: the file of its plainest font}, by name."""
    from matplotlib.font_manager import fontManager

    plain = sorted(fontManager.ttflist, key=lambda font: (font.style != "normal", font.weight != 400, font.fname))
    files: dict[str, str] = {}
    for font in plain:
        files.setdefault(font.name, font.fname)
    return {name: files[name] for name in sorted(files) if not name.startswith(NO_LETTERS)}


DEFAULT = ReportSettings()
