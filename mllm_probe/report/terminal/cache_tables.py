"""The tables of `mllm-probe cache ls`. Reads manifests and plans through `upkeep`, opens no shard."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mllm_probe.cache.upkeep import Cache, Group, day, last_written, total_bytes
from mllm_probe.config.sentences import flat, show
from mllm_probe.errors import count
from mllm_probe.records.samples import digest
from mllm_probe.records.sites import Key
from mllm_probe.report.terminal.printing import add_row, bare, wide_console

SHOWN = ("quantization", "quantize", "dtype", "storage", "attn")  # the others only where caches differ in them
HIDDEN = ("files", "layers", "format")


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.3f}" if size >= 1e6 or not size else "<0.001"


def list_caches(caches: Sequence[Cache]) -> None:
    """One row per cache."""
    table = bare(caption="samples and keys of finished groups; `mllm-probe cache ls IDENTITY` shows the groups")
    table.add_column("identity", no_wrap=True)
    table.add_column("model and settings", overflow="fold")
    for name in ("samples", "keys"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("groups", justify="right", min_width=10)
    table.add_column("GB", justify="right", no_wrap=True)
    table.add_column("last written", min_width=10)
    differing = _differing(caches)
    for cache in caches:
        add_row(table, cache.name, _settings(cache) + differing[cache.name], *_amounts(cache))
    wide_console().print(table)


def _settings(cache: Cache) -> str:
    """`mini, nf4 (lm), float32 stored as float16, sdpa`."""
    if not cache.identity:
        return "identity.json is unreadable"
    fields = cache.identity["fields"]
    model = (
        cache.identity.get("model") or f"files {digest(fields.get('files'))[:8]}"
    )  # older caches have no name for it
    towers = "+".join(fields.get("quantize", ()))
    precision = f"{fields.get('quantization')} ({towers})" if towers else "none"
    dtype, storage = fields.get("dtype"), fields.get("storage")
    return (
        f"{model}, {precision}, {dtype if dtype == storage else f'{dtype} stored as {storage}'}, {fields.get('attn')}"
    )


def _differing(caches: Sequence[Cache]) -> dict[str, str]:
    """{identity: its other settings that are not the same in all caches listed}."""
    settings = {cache.name: _others(cache.identity.get("fields", {})) for cache in caches}
    names = {name for one in settings.values() for name in one}
    apart = sorted(name for name in names if len({show(one.get(name)) for one in settings.values()}) > 1)
    return {
        name: "".join(f", {key}={show(one[key])}" for key in apart if one.get(key) is not None)
        for name, one in settings.items()
    }


def _others(fields: Mapping[str, Any]) -> dict[str, Any]:
    return flat({name: value for name, value in fields.items() if name not in (*SHOWN, *HIDDEN)})


def _amounts(cache: Cache) -> tuple[str, ...]:
    samples = {uid for group in cache.finished for uid in group.samples}
    keys = {key for group in cache.finished for key in group.keys}
    unfinished = len(cache.groups) - len(cache.finished)
    groups = f"{len(cache.finished)} + {unfinished} unfinished" if unfinished else str(len(cache.finished))
    if cache.foreign is not None:
        groups = f"format {cache.foreign}"
    written = day(last_written(cache.files, cache.paths.root))
    return (str(len(samples)), str(len(keys)), groups, gigabytes(total_bytes(cache.files)), written)


def list_groups(cache: Cache) -> None:
    """One row per group of a cache, or a sentence where there is none to show."""
    if not cache.groups:
        release = (
            f"its format {cache.foreign} is from another release" if cache.foreign is not None else "it has no group"
        )
        print(f"{cache.name}: {_settings(cache)}; {release}")
        return
    table = bare(title=f"{cache.name}: {_settings(cache)}")
    table.add_column("group", no_wrap=True)
    for name in ("state", "keys"):
        table.add_column(name, overflow="fold")
    for name in ("samples", "GB", "retries"):
        table.add_column(name, justify="right")
    for group in cache.groups:
        samples, size = str(len(list(group.samples))), gigabytes(total_bytes(group.files))
        add_row(table, group.name, _state(group), abbreviate(group.keys), samples, size, str(group.retries))
    wide_console().print(table)


def _state(group: Group) -> str:
    if not group.plan:
        return (
            "claimed, not begun" if group.claimed and not group.paths.stored_plan.exists() else "its plan is unreadable"
        )
    if not group.finished:
        claimed = f", {group.claimed} claimed" if group.claimed else ""
        return f"unfinished, {group.present} of {count(len(group.planned), 'shard')}{claimed}"
    if not group.planned:
        return "finished, joins stored rows"
    gone = len(group.planned) - group.present
    planned = count(len(group.planned), "shard")
    return f"finished, {gone} of {planned} missing" if gone else f"finished, {planned}"


def abbreviate(keys: Iterable[str]) -> str:
    """`lm 0-4,norm at last, mean_text; vision 0-3 at mean_image`: towers with the same positions stand together."""
    layers: dict[str, set[int]] = {}
    norms, positions = set(), dict[str, set[str]]()
    for key in map(Key.parse, keys):
        site = key.site
        layers.setdefault(site.tower, set())
        if site.part == "norm":
            norms.add(site.tower)
        else:
            layers[site.tower].add(site.layer)
        positions.setdefault(site.tower, set()).add(key.position)
    parts = []
    for tower, found in layers.items():
        names = [] if tower == "connector" else _ranges(sorted(found)) + ["norm"] * (tower in norms)
        parts.append(f"{tower} {','.join(names)}".strip() + f" at {', '.join(sorted(positions[tower]))}")
    return "; ".join(parts)


def _ranges(layers: Sequence[int]) -> list[str]:
    """[0, 1, 2, 5] as 0-2 and 5."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
