"""Fill one shard from the chunks of its unit(s). The only mutable state of the cache. Knows no model."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mllm_probe.paths import replacing
from mllm_probe.types import Chunk, Key

if TYPE_CHECKING:
    import torch


class ShardWriter:
    """Collects rows in memory, then writes one safetensors file atomically.

    `prefixes` maps each sample of the shard to its prefix, `owners` names the samples whose prefix rows are kept
    (the first of each prefix); `spaces` maps each key to its row space.
    """

    def __init__(
        self, path: Path, prefixes: Mapping[str, str], owners: frozenset[str], spaces: Mapping[Key, str]
    ) -> None:
        self._path, self._prefixes, self._owners, self._spaces = path, dict(prefixes), owners, dict(spaces)
        self._values: dict[Key, list[torch.Tensor]] = defaultdict(list)
        self._counts: dict[Key, list[int]] = defaultdict(list)
        self._samples: list[str] = []

    def add(self, chunk: Chunk) -> None:
        """Keep the chunk's rows; rows of a prefix that another sample owns are left out."""
        self._samples += chunk.uids
        owned = [i for i, uid in enumerate(chunk.uids) if uid in self._owners]
        for key, values in chunk.values.items():
            kept = owned if self._spaces[key] == "prefix" else range(len(chunk.uids))
            bounds = chunk.rows[key]
            rows = [values[bounds[i] : bounds[i + 1]].clone() for i in kept]
            self._values[key] += [values[:0], *rows]  # the empty one stands for a shard that owns no row
            self._counts[key] += [int(bounds[i + 1] - bounds[i]) for i in kept]

    def write(self) -> None:
        """One file: values, row bounds where a uid has not exactly one row, and the index in the metadata."""
        import torch
        from safetensors.torch import save_file

        tensors = {}
        for key, parts in self._values.items():
            tensors[str(key)] = torch.cat(parts).contiguous()
            if any(count != 1 for count in self._counts[key]):
                tensors[f"{key}#rows"] = torch.from_numpy(np.cumsum([0, *self._counts[key]]))
        index = {
            "sample": self._samples,
            "prefix": [self._prefixes[uid] for uid in self._samples if uid in self._owners],
            "prefixes": {uid: self._prefixes[uid] for uid in self._samples},
            "spaces": {str(key): space for key, space in self._spaces.items()},
        }
        with replacing(self._path) as part:
            save_file(tensors, part, metadata={"index": json.dumps(index)})
