"""Which prompts are compared: one of each group of pictures, as many as the measures need."""

from collections.abc import Sequence
from random import Random

from mllm_probe.config.geometry import GeometrySettings
from mllm_probe.errors import ConfigError
from mllm_probe.geometry.row_checks import FEWEST
from mllm_probe.records.samples import Picture, Sample


def refuse_tokens(positions: Sequence[str], command: str) -> None:
    """Raises ConfigError for positions with a row for every token."""
    ragged = [position for position in positions if position.startswith("tokens:")]
    if ragged:
        raise ConfigError(
            f"position {ragged[0]} holds a row for every token, and {command} compares one row a picture; "
            "leave it out of extract.positions or take a pooled position such as mean_text"
        )


def draw_samples(samples: Sequence[Sample], pictures: Sequence[Picture], most: int, seed: int) -> list[str]:
    """The uids of one sample of each group of pictures, of at most `most` groups, in the order of `samples`."""
    group = {picture.digest: picture.group for picture in pictures}
    shuffled = list(samples)
    Random(f"geometry/{seed}").shuffle(shuffled)
    of_group: dict[str, str] = {}
    for sample in shuffled:
        of_group.setdefault(group[sample.digests[0]], sample.uid)
    chosen = set(list(of_group.values())[:most])
    return [sample.uid for sample in samples if sample.uid in chosen]


def check_rows(rows: int, settings: GeometrySettings) -> None:
    """Raises ConfigError where the measures need more rows than were drawn."""
    if rows < FEWEST:
        raise ConfigError(
            f"geometry compares one row a picture, one of each group of similar pictures, and has {rows}; at least "
            f"{FEWEST} pictures are needed, see data.n"
        )
    if "mutual_knn" in settings.measures and settings.k >= rows:
        raise ConfigError(f"geometry.k={settings.k} must be below the number of rows, which is {rows}")
