"""The loop over prompts and interventions: part by part, each kept on disk until all are there. Knows no label.

A part is some pictures' prompts under the interventions of one share (`extract.shard` of `extract.num_shards`), so a
killed command goes on with the first part that is missing, and jobs of a queue each do their own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mllm_probe.errors import PendingError
from mllm_probe.files.store_paths import PartPaths, replacing
from mllm_probe.records.interventions import Intervention, Outcomes
from mllm_probe.records.protocols import Intervenable, Reporter
from mllm_probe.records.samples import Sample

PROMPTS = {"cpu": 16, "cuda": 256}  # of a part, or those of one picture where they are more
FIELDS = ("clean_d", "clean_p", "d", "p", "kl")
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Share:
    """Which interventions fall to this process."""

    number: int = 0
    of: int = 1


def in_parts(samples: Sequence[Sample], device: str, together: Sequence[str] = ()) -> list[list[Sample]]:
    """Samples in parts, those about one picture, or with one name in `together` [N], side by side in one part."""
    names = together or ["/".join(sample.digests) for sample in samples]
    groups: dict[str, list[Sample]] = {}
    for name, sample in zip(names, samples, strict=True):
        groups.setdefault(name, []).append(sample)
    parts: list[list[Sample]] = [[]]
    for group in groups.values():
        if parts[-1] and len(parts[-1]) + len(group) > PROMPTS[device]:
            parts.append([])
        parts[-1] += group
    return [sorted(part, key=lambda sample: sample.digests) for part in parts if part]


def outcomes(
    engine: Callable[[], Intervenable],
    parts: Sequence[Sequence[Sample]],
    interventions: Sequence[Intervention],
    paths: PartPaths,
    share: Share,
    reporter: Reporter,
) -> Outcomes:
    """Of all prompts, in the order of the parts. `engine` loads the model when it is first called, and not where all is
    kept already. Raises PendingError where other processes still have parts to do."""
    made = {number: _of(interventions, number, share.of) for number in range(share.of)}
    todo = [(i, number) for number in made for i in range(len(parts))]
    own = [one for one in todo if one[1] == share.number]
    reporter.progress("intervene", 0, len(own), "parts")  # the rate counts from here
    for done, (i, number) in enumerate(own):
        name = _name(i, number, share.of)
        some = [interventions[c] for c in made[number]]
        _kept(paths, name, lambda i=i, some=some: _arrays(engine().outcomes(parts[i], some)))  # type: ignore[misc]
        reporter.progress("intervene", done + 1, len(own), "parts")
    if lacking := [one for one in todo if not paths.part(_name(*one, share.of)).is_file()]:
        raise PendingError(
            f"other processes have not done their shares yet ({len(lacking)} of {len(todo)} parts); repeat the command "
            "when all are done"
        )
    return _joined(parts, made, paths, share, len(interventions))


def slopes(
    engine: Callable[[], Intervenable],
    parts: Sequence[Sequence[Sample]],
    make: Callable[[Intervenable, Sequence[Sample]], np.ndarray],
    paths: PartPaths,
    reporter: Reporter,
) -> np.ndarray:
    """[K, N]: what `make` takes from one backward pass of each part, kept as outcomes are."""
    found = []
    reporter.progress("slopes", 0, len(parts), "parts")
    for i, part in enumerate(parts):
        arrays = _kept(paths, f"slopes-{i}", lambda part=part: {"slopes": make(engine(), part)})  # type: ignore[misc]
        found.append(arrays["slopes"])
        reporter.progress("slopes", i + 1, len(parts), "parts")
    return np.concatenate(found, axis=1)


def _of(interventions: Sequence[Intervention], number: int, of: int) -> list[int]:
    return list(range(number, len(interventions), of))


def _name(part: int, number: int, of: int) -> str:
    return f"outcomes-{part}-{number}of{of}"


def _arrays(found: Outcomes) -> Arrays:
    return {name: getattr(found, name) for name in FIELDS}


def _kept(paths: PartPaths, name: str, make: Callable[[], Arrays]) -> Arrays:
    from safetensors.numpy import load_file, save_file

    path = paths.part(name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {key: np.ascontiguousarray(value) for key, value in make().items()}
        with replacing(path) as part:
            save_file(arrays, part)
    return load_file(path)


def _joined(
    parts: Sequence[Sequence[Sample]], made: dict[int, list[int]], paths: PartPaths, share: Share, count: int
) -> Outcomes:
    rows = np.cumsum([0, *map(len, parts)])
    clean: dict[str, Any] = {name: np.zeros(rows[-1], np.float32) for name in FIELDS[:2]}
    changed: dict[str, Any] = {name: np.full((count, rows[-1]), np.nan, np.float32) for name in FIELDS[2:]}
    for i, number, arrays in _read(parts, made, paths, share):
        here = slice(rows[i], rows[i + 1])
        for name in clean:
            clean[name][here] = arrays[name]
        for name in changed:
            changed[name][made[number], here] = arrays[name]
    return Outcomes(tuple(sample.uid for part in parts for sample in part), **clean, **changed)


def _read(
    parts: Sequence[Sequence[Sample]], made: dict[int, list[int]], paths: PartPaths, share: Share
) -> Iterator[tuple[int, int, Arrays]]:
    from safetensors.numpy import load_file

    for number in made:
        for i in range(len(parts)):
            yield i, number, load_file(paths.part(_name(i, number, share.of)))
