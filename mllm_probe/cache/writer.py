"""Fill one shard from the chunks of its unit(s). The only mutable state of the cache. Knows no model."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mllm_probe.errors import CacheError
from mllm_probe.files.store_paths import replacing
from mllm_probe.records.batches import Chunk
from mllm_probe.records.sites import Key

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
        self.path, self._prefixes, self._owners, self._spaces = path, prefixes, owners, spaces
        self._values: dict[Key, list[torch.Tensor]] = defaultdict(list)
        self._counts: dict[Key, list[int]] = defaultdict(list)
        self._samples: list[str] = []

    def add(self, chunk: Chunk) -> None:
        """Keep the chunk's rows, which for keys of the row space `prefix` are those of the owners alone."""
        self._samples += chunk.uids
        for key, values in chunk.values.items():
            counts = np.diff(chunk.rows[key]).tolist()
            if self._spaces[key] == "prefix":
                counts = [n for n, uid in zip(counts, chunk.uids, strict=True) if uid in self._owners]
            assert sum(counts) == len(values), f"{key} has {len(values)} rows where {sum(counts)} were planned"
            self._values[key].append(values)
            self._counts[key] += counts

    def write(self) -> None:
        """One file: values, row bounds where a uid has not exactly one row, and the index in the metadata."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = {}
        for key, parts in self._values.items():
            tensors[str(key)] = torch.cat(parts)
            if any(count != 1 for count in self._counts[key]):
                tensors[f"{key}#rows"] = torch.from_numpy(np.cumsum([0, *self._counts[key]]))
        index = {
            "sample": self._samples,
            "prefix": [self._prefixes[uid] for uid in self._samples if uid in self._owners],
            "prefixes": {uid: self._prefixes[uid] for uid in self._samples},
            "spaces": {str(key): space for key, space in self._spaces.items()},
        }
        try:
            with replacing(self.path) as part:
                save_file(tensors, part, metadata={"index": json.dumps(index)})
        except (SafetensorError, OSError) as error:
            raise CacheError(
                f"{self.path} cannot be written ({error}); finished shards are kept: free disk space and repeat the "
                "command"
            ) from error
