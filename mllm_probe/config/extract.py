"""What a user may set of layers, positions and the extraction into the cache, and where files go."""

from dataclasses import dataclass, field
from typing import Any

PADDING_SIDES = ("right", "left")
PREFIXES = ("auto", "off")


@dataclass
class LayerSettings:
    """Which sites: `towers` (null = all there are), then layers `range` (both ends included, null = all) in steps of
    `stride` from its start, and of each the `parts`: what the block returns, what its attention or its mlp adds.
    `middle` takes the middle third of a tower's blocks, `norm` the state behind the final norm as well."""

    towers: list[str] | None = None
    parts: list[str] = field(default_factory=lambda: ["block"])
    range: list[int] | None = None
    middle: bool = False
    stride: int = 1
    norm: bool = True


@dataclass
class ExtractSettings:
    """What is read, and how the work is cut up.

    `positions` are where a prompt is read; states are stored in `dtype`, null = the model's own. `micro_batch` prompts
    go through the model at once, or as many tokens where `prefix` auto lets the statements about a picture share it;
    null = what suits the device. `workers` threads prepare pictures ahead. This process is number `shard` of
    `num_shards`; `gpus` starts as many processes here. Processes that need the same share the shards out; one that
    finds only shards that others fill waits for `wait_s` seconds. `answers` are words for the labels, by
    their names ({yes: Yes, no: No}; a list where it is plain which is meant), whose log-odds are the model's own answer
    (null: it has none). Prompts of a batch are padded on `padding_side`. More than `max_disk_gb` is refused.
    """

    positions: list[str] = field(default_factory=lambda: ["last"])
    answers: Any = None
    micro_batch: int | None = None
    dtype: str | None = None
    padding_side: str = "right"
    prefix: str = "auto"
    workers: int = 2
    shard: int = 0
    num_shards: int = 1
    gpus: int = 1
    wait_s: float = 120.0
    max_disk_gb: float = 100.0


@dataclass
class CacheSettings:
    """What is believed of a file that was hashed before: all where its size, times and inode are the same with `trust`
    stat; where stretches of it are, too, with sample; nothing with content, which reads checkpoints and pictures whole.
    """

    trust: str = "sample"


@dataclass
class PathSettings:
    """`outputs` is the folder that everything is written below."""

    outputs: str = "outputs"
