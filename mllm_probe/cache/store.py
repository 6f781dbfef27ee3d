"""The store: shards of activations, their index and their manifests. Knows keys and row uids, not models or labels.

    outputs/cache/<identity>/identity.json             the fields that were digested
                             groups/<plan>/plan.npz    which rows go into which shard, fixed before the first pass
                                           provenance.json   device, versions, modules really quantised
                                           00000.safetensors ...
                                           00003.retry.json  only where a shard needed smaller passes
                                           manifest.json     shard digests, keys, counts; written last
                             renderings/<sample>.json  first samples of runs for people, no part of what is stored

A shard holds, for each key such as `lm.07@last`, a tensor [T, D]. Its metadata hold the uids of its two row spaces:
`sample` rows, one set per sample, and `prefix` rows, one set per picture and prompt head, shared by all samples that
begin so. A key with several rows per uid also has a tensor `<key>#rows` with the bounds. Any safetensors reader can
open one; a shard that is there is whole, because it was renamed into place. Nothing is shared between groups, so
several processes can fill one store.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe.cache.claims import is_orphan
from mllm_probe.cache.coverage import Coverage, Damage, Shard, StoredRows
from mllm_probe.cache.plan import Plan, load_plan
from mllm_probe.errors import CacheError, few
from mllm_probe.files.digests import Digests
from mllm_probe.files.seals import CHECKSUMS, HEADER, check_entries, checksums, header_sum, read_object, tensor_sum
from mllm_probe.files.store_paths import CachePaths, GroupPaths, prune, replacing
from mllm_probe.records.batches import unpacked
from mllm_probe.records.sites import Key

if TYPE_CHECKING:
    import torch

SAME_STORE = ("device", "quantized_modules")
MANIFEST = {"shards": list, "keys": list, "samples": int, "joined": bool, "retries": dict, "provenance": dict}
SAME_GROUP = (*SAME_STORE, "torch", "transformers", "bitsandbytes", "pillow")


class Store:
    """One cache. `digests` remembers the content of shards, so that an unchanged file is hashed once; what is read of
    it is held against checksums of the content that was hashed, whatever became of the file since."""

    def __init__(self, paths: CachePaths, digests: Digests) -> None:
        self.paths, self._digests = paths, digests

    @property
    def memory(self) -> Digests:
        """Of digests, and of what was computed once from what they tell."""
        return self._digests

    def groups(self) -> dict[str, dict[str, Any]]:
        """{plan digest: manifest} of the finished groups, in a fixed order. Raises CacheError."""
        found = sorted(self.paths.root.glob("groups/*/manifest.json"))
        return {path.parent.name: _json(path, MANIFEST) for path in found}

    def unfinished(self) -> set[str]:
        """The digests of the plans that were begun, and whose groups have no manifest yet."""
        return {path.parent.name for path in self.paths.root.glob("groups/*/plan.*")} - self.groups().keys()

    def tidy(self) -> None:
        """Remove what processes that were killed here left half written."""
        for folder in (self.paths.root.parent, self.paths.root, *self.paths.root.glob("groups/*")):
            for path in folder.glob(".*"):
                if is_orphan(path):
                    path.unlink(missing_ok=True)

    def begun(self) -> tuple[int, int]:
        """How many shards of unfinished groups are there, and how many their plans name. Raises CacheError."""
        there = planned = 0
        for digest in self.unfinished():
            group = self.paths.group(digest)
            shards = _plan(group).shards
            there += sum(group.shard(number).exists() for number in range(shards))
            planned += shards
        return there, planned

    def provenance(self) -> dict[str, Any]:
        """That of a finished group, empty where there is none; device and quantised modules are alike in all."""
        return next((dict(entry["provenance"]) for entry in self.groups().values()), {})

    def coverage(self) -> Coverage:
        """The whole shards of all finished groups; content is compared with the manifests. Raises CacheError."""
        shards: list[Shard] = []
        joined: dict[str, str] = {}
        damaged: list[Damage] = []
        groups = self.groups()
        for group, entry in groups.items():
            self._agree(next(iter(groups.values()))["provenance"], entry["provenance"], SAME_STORE)
            paths = self.paths.group(group)
            for number, expected in enumerate(entry["shards"]):
                path = paths.shard(number)
                if found := self._whole(path, expected):
                    shards.append(found)
                else:
                    damaged.append(Damage(group, number, path))
            if entry["joined"]:
                joined |= _joined(paths)
        self._digests.save()
        return Coverage(tuple(shards), joined, tuple(damaged))

    def _whole(self, path: Path, expected: str) -> Shard | None:
        """The shard where its content is the expected one, as far as it is read now; its tensors come later."""
        if not path.exists():
            return None
        if self._digests.of(path, checked=True) != expected and self._digests.afresh(path) != expected:
            return None
        sums = json.loads(self._digests.remembered(path, CHECKSUMS, checksums, checked=True))
        if header_sum(path) == sums[HEADER]:
            return replace(Shard.open(path), sums=sums)
        self._digests.afresh(path)
        return None

    def read(self, key: Key, samples: Sequence[str], coverage: Coverage) -> tuple["torch.Tensor", np.ndarray]:
        """Values [T, D] in storage dtype and row bounds [B + 1], in the order of `samples`. Raises CacheError."""
        rows, bounds = self.rows(key, samples, coverage)
        return rows[:], bounds

    def rows(self, key: Key, samples: Sequence[str], coverage: Coverage) -> tuple[StoredRows, np.ndarray]:
        """The same, read from the shards when they are sliced: what was not asked for takes no memory."""
        shard, place = coverage.locate(key, samples)
        if len(absent := np.flatnonzero(shard < 0)):
            uid = samples[absent[0]]
            raise CacheError(
                f"{key} of sample {uid} is not in {self.paths.root}; run `mllm-probe extract` with the same settings"
            )
        numbers, part = np.unique(shard, return_inverse=True)
        loaded = [self._load(coverage.shards[number], key) for number in numbers]
        first, many = place, np.ones(len(place), int)
        for number, (_, starts) in enumerate(loaded):
            if starts is not None:
                here = part == number
                sets = starts.numpy()
                first[here], many[here] = sets[place[here]], np.diff(sets)[place[here]]
        bounds = np.cumsum([0, *many])
        row = np.repeat(first - bounds[:-1], many) + np.arange(bounds[-1])
        return StoredRows(tuple(values for values, _ in loaded), np.repeat(part, many), row), bounds

    def _load(self, shard: Shard, key: Key) -> tuple["torch.Tensor", "torch.Tensor | None"]:
        """A key's values, and its bounds where it has some, as they were written. Raises CacheError."""
        from safetensors import safe_open

        with safe_open(shard.path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in (str(key), f"{key}#rows") if name in shard.sums}
        if changed := [name for name, values in found.items() if tensor_sum(values) != shard.sums[name]]:
            self._digests.afresh(shard.path)
            self._digests.save()
            raise CacheError(
                f"{shard.path} is damaged: {changed[0]} differs from what was written; `mllm-probe extract` or `run` "
                "with the same settings extracts it again"
            )
        return found[str(key)], found.get(f"{key}#rows")

    def begin(self, plan: Plan, provenance: Mapping[str, Any]) -> GroupPaths:
        """Write down the plan of a group and its provenance, or refuse to go on with what another machine began.

        All groups of a store come from one kind of device with the same modules quantised; the shards of one group
        also from the same versions. Raises CacheError.
        """
        paths = self.paths.group(plan.digest)
        for other in self._provenances():
            self._agree(other, provenance, SAME_STORE)
        if paths.provenance.exists():
            self._agree(_json(paths.provenance), provenance, SAME_GROUP)
        plan.save(paths.plan)
        write_json(paths.provenance, provenance)
        return paths

    def _provenances(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.paths.root.glob("groups/*/provenance.json")):
            yield _json(path)

    def _agree(self, known: Mapping[str, Any], provenance: Mapping[str, Any], names: Sequence[str]) -> None:
        for name in names:
            if known.get(name) != provenance.get(name):
                raise CacheError(
                    f"{self.paths.root} was filled with {name} {_difference(known.get(name), provenance.get(name))}; "
                    "use the same again, or another paths.outputs"
                )

    def learn(self, path: Path) -> None:
        """Hash a shard that was just written, while the system still has it in memory."""
        self._digests.remembered(path, CHECKSUMS, checksums, checked=True)

    def remember(self) -> None:
        """Tell other processes what was learnt, so that who finishes need not read every shard."""
        self._digests.save()

    def finish(self, group: str, keys: Sequence[Key], shards: int, samples: int, joined: bool) -> None:
        """Write the manifest of a complete group: its last file. `joined`: it has samples without a row of their own.

        Raises CacheError where a shard that was extracted again did not become what it had been.
        """
        paths = self.paths.group(group)
        found = [self._digests.of(paths.shard(number), checked=True) for number in range(shards)]
        before = _json(paths.manifest)["shards"] if paths.manifest.exists() else found
        if before != found:
            raise CacheError(f"{paths.root} was extracted again and differs; delete this folder to start again")
        retries = {n: _json(p) for n in range(shards) if (p := paths.retry(n)).exists()}
        entry = {
            "shards": found,
            "keys": sorted(map(str, keys)),
            "samples": samples,
            "joined": joined,
            "retries": retries,
            "provenance": _json(paths.provenance),
        }
        for claim in paths.root.glob("*.claim"):  # of processes that were killed between a shard and its claim
            claim.unlink(missing_ok=True)
        write_json(paths.manifest, entry)
        self._digests.save()


def _difference(there: Any, here: Any) -> str:
    """Of two lists what only one of them has, for they are long and may be equally long."""
    if not (isinstance(there, list) and isinstance(here, list)):
        return f"{_brief(there)}, this run has {_brief(here)}"
    alone = {
        "only there": set(map(str, there)) - set(map(str, here)),
        "only here": set(map(str, here)) - set(map(str, there)),
    }
    named = [f"{where}: {few(sorted(names))}" for where, names in alone.items() if names] or ["the order differs"]
    return f"{_brief(there)}, this run has {_brief(here)}; {', '.join(named)}"


def _brief(value: Any) -> str:
    return f"{len(value)} modules" if isinstance(value, list) else str(value)


def _joined(paths: GroupPaths) -> dict[str, str]:
    """{sample: prefix} of a plan."""
    plan = _plan(paths)
    return dict(zip(unpacked(plan.samples), unpacked(plan.prefixes[plan.prefix]), strict=True))


def _plan(paths: GroupPaths) -> Plan:
    """Raises CacheError."""
    try:
        return load_plan(paths)
    except ValueError as error:
        raise _damaged(paths.stored_plan, error) from error


def _json(path: Path, entries: Mapping[str, type] | None = None) -> dict[str, Any]:
    """An object that has these entries. Raises CacheError."""
    try:
        found = read_object(path)
        check_entries(found, entries or {})
    except ValueError as error:
        raise _damaged(path, error) from error
    return found


def _damaged(path: Path, why: object) -> CacheError:
    return CacheError(
        f"{path} is damaged ({why}); {prune('--damaged --yes', _outputs(path))} removes its group, and the same "
        "command extracts it again"
    )


def _outputs(path: Path) -> Path:
    """The folder whose cache/IDENTITY/groups/GROUP holds a file."""
    return path.parents[4] if len(path.parents) > 4 else path.parent


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=indent, sort_keys=True))
