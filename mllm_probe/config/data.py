"""What a user may set of the data and its splits."""

from dataclasses import dataclass

UNITS = ("picture", "row")


@dataclass
class DataSettings:
    """Which pictures of the data set: `n` of them (null = all), drawn by `seed`. What cannot be used ends the run with
    `on_bad_row` stop, and is left out and named with skip. Picture files that are `links` to files outside the data
    set's folder are followed, or with refuse cannot be used."""

    n: int | None = None
    seed: int = 0
    on_bad_row: str = "stop"
    links: str = "follow"


@dataclass
class SplitSettings:
    """Shares of pictures: `test`, and `val` of the `blocks` that the others are cut into, see mllm_probe.tasks.splits.

    `unit` picture keeps a picture on one side, `near_duplicates` together with those that look the same; unit row does
    not, and leaks. `file` is a CSV of picture,split that takes the place of the shares.
    """

    test: float = 0.25
    val: float = 0.2
    blocks: int = 10
    unit: str = "picture"
    near_duplicates: bool = True
    file: str | None = None
