"""A plan in columns: small, read back as it was, also from JSON of older releases, and never wrong where damaged."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mllm_probe.cache.plan import COLUMNS, Plan, load_plan
from mllm_probe.cache.store import Store
from mllm_probe.errors import CacheError
from mllm_probe.extraction.plan import Planner
from mllm_probe.files.store_paths import GroupPaths
from mllm_probe.models.hf import HFModel
from mllm_probe.records.batches import Survey, packed, places, unpacked
from mllm_probe.records.samples import Sample, digest
from mllm_probe.records.sites import Anatomy, Key
from tests.support.caches import KEYS, as_an_older_release, contents, fill

ANATOMY = Anatomy({"lm": 4, "vision": 3}, {"lm": 64, "vision": 32}, causal=True, max_tokens=512)
BOTH = (Key.parse("vision.02@mean_image"), Key.parse("lm.02@last"))
OLD = (
    '{"owners": ["s1", "s3"], "prefixes": {"s1": "p1", "s2": "p1", "s3": "p2", "s4": "p2"}, "prompts": ["USER: ?"], '
    '"spaces": {"lm.02@mean_image": "prefix"}, "units": [{"prefix": "shared", "samples": ["s3"], "shard": 0}, '
    '{"prefix": "shared", "samples": ["s1"], "shard": 1}]}'
)


def planned(uids: Sequence[str], prefixes: Sequence[str], shared: bool = True) -> Plan:
    """Of samples with ten tokens each, two of them their own."""
    known = list(dict.fromkeys(prefixes))
    ids = [[*[1] * 8, number, number] for number in range(len(uids))]
    survey = Survey(
        uids=packed(uids),
        prefix=np.array([known.index(prefix) for prefix in prefixes], np.uint32),
        prefixes=packed(known),
        flat=np.array(ids, np.int32).ravel(),
        bounds=np.arange(len(uids) + 1) * 10,
        picture_tokens=16,
        prompts=("a prompt",),
    )
    (plan,) = Planner(survey, ANATOMY, 4, 4, shared).plans({BOTH: uids})
    return plan


def saved(plan: Plan, folder: Path) -> GroupPaths:
    paths = GroupPaths(folder / plan.digest)
    paths.root.mkdir(parents=True)
    plan.save(paths.plan)
    return paths


def test_it_is_read_back_as_it_was(tmp_path: Path) -> None:
    uids = [digest(number) for number in range(40)]
    for prefixes in ([digest("p", number // 4) for number in range(40)], uids):
        plan = planned(uids, prefixes)
        paths = saved(plan, tmp_path / str(len(set(prefixes))))
        found = load_plan(paths)
        assert all(np.array_equal(getattr(found, name), getattr(plan, name)) for name in COLUMNS)
        assert (found.spaces, found.prompts, found.shared) == (plan.spaces, plan.prompts, plan.shared)
        first = paths.plan.read_bytes()
        found.save(paths.plan)
        assert paths.plan.read_bytes() == first


def test_a_sample_takes_few_bytes(tmp_path: Path) -> None:
    """16 a sample and 8 a prefix, on disk; what names and frames the columns is the same for every plan."""
    for count, pictures in ((20_000, 20_000), (20_000, 1_000)):
        uids = [digest(number) for number in range(count)]
        plan = planned(uids, [digest("p", number % pictures) for number in range(count)] if pictures < count else uids)
        size = saved(plan, tmp_path / str(pictures)).plan.stat().st_size
        passes = 12 * len(plan.ends)
        assert size <= 16 * count + 8 * pictures + passes + 3_000
        assert sum(getattr(plan, name).nbytes for name in COLUMNS) <= size


def test_the_plan_of_an_older_release_is_read(tmp_path: Path) -> None:
    """Its name is a digest of the JSON, written by hand; two samples have no pass, for others store their rows."""
    group = GroupPaths(tmp_path / "4f2f66a5e23a9f05")
    group.root.mkdir()
    (group.root / "plan.json").write_text(OLD)
    plan = load_plan(group)
    assert [(unit.samples, unit.shard, unit.prefix) for unit in plan.units] == [
        (("s3",), 0, "shared"),
        (("s1",), 1, "shared"),
    ]
    assert (plan.read, plan.shards, unpacked(plan.samples)) == (2, 2, ["s3", "s1", "s2", "s4"])
    assert plan.content(1).prefixes == {"s1": "p1"} and plan.content(1).owners == {"s1"}
    assert plan.prompts == ("USER: ?",) and plan.spaces == {Key.parse("lm.02@mean_image"): "prefix"}
    plan.save(group.plan)
    assert load_plan(group).digest == group.root.name
    (group.root / "plan.json").write_text(OLD.replace('"p2"', '"p1"'))
    group.plan.unlink()
    with pytest.raises(ValueError, match="it is not the plan its group was made from"):
        load_plan(group)


@pytest.mark.parametrize("shared", [True, False])
def test_a_cache_of_an_older_release_goes_on(
    model: HFModel, store: Store, samples: Sequence[Sample], shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllm_probe.extraction.plan.SHARD_UNITS", 1)
    fill(model, store, samples, KEYS, batch=3, shared=shared)
    before = contents(store)
    (name,) = store.groups()
    group = store.paths.group(name)
    as_an_older_release(group)
    assert store.coverage().missing(KEYS, [sample.uid for sample in samples]) == {}
    group.manifest.unlink()
    group.shard(1).unlink()
    shards = load_plan(group).shards
    assert store.unfinished() == {name} and store.begun() == (shards - 1, shards)
    fill(model, store, samples, KEYS, batch=3, shared=shared)
    (group.root / "plan.json").unlink()
    assert contents(store) == before


def test_samples_that_only_join_rows_are_known_from_either_file(
    model: HFModel, store: Store, samples: Sequence[Sample]
) -> None:
    by_picture = {sample.digests[0]: sample for sample in samples}
    picture = KEYS[:1]
    fill(model, store, list(by_picture.values()), picture, shared=True)
    others = [sample for sample in samples if sample not in by_picture.values()]
    fill(model, store, others, picture, shared=True)
    (joined,) = [name for name, entry in store.groups().items() if entry["joined"]]
    uids = [sample.uid for sample in samples]
    assert store.coverage().missing(picture, uids) == {}
    as_an_older_release(store.paths.group(joined))
    assert store.coverage().missing(picture, uids) == {}
    (store.paths.group(joined).root / "plan.json").write_text("{}")
    with pytest.raises(CacheError, match=r"plan\.json is damaged \(KeyError: 'units'\); `mllm-probe cache prune"):
        store.coverage()


def test_no_damaged_byte_makes_another_plan(tmp_path: Path) -> None:
    plan = planned([digest(number) for number in range(6)], [digest("p", number // 3) for number in range(6)])
    paths = saved(plan, tmp_path)
    whole = paths.plan.read_bytes()
    harmless = 0
    for place in range(0, len(whole), 3):
        paths.plan.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            found = load_plan(paths)
        except ValueError:
            continue
        harmless += 1
        assert all(np.array_equal(getattr(found, name), getattr(plan, name)) for name in COLUMNS)
    assert harmless < len(whole) / 6, "only what the archive says of times and versions"
    for some in (b"", whole[:200], whole[:-30]):
        paths.plan.write_bytes(some)
        with pytest.raises(ValueError, match=r"^\w+: "):
            load_plan(paths)


def test_the_name_is_of_all_that_decides_the_bytes(tmp_path: Path) -> None:
    uids = [digest(number) for number in range(12)]
    plan = planned(uids, [digest("p", number // 3) for number in range(12)])
    others = [
        replace(plan, prefix=plan.prefix[::-1].copy()),
        replace(plan, samples=plan.samples[::-1].copy()),
        replace(plan, owners=plan.owners + 1),
        replace(plan, shared=False),
        replace(plan, format=2),
        replace(plan, shard=plan.shard + 1),
        replace(plan, ends=np.unique([1, *plan.ends]), shard=np.append(plan.shard, plan.shard[-1])),
        replace(plan, spaces=dict(list(plan.spaces.items())[:1])),
    ]
    assert len({one.digest for one in (plan, *others)}) == 1 + len(others)
    assert replace(plan, prompts=()).digest == plan.digest


@pytest.mark.parametrize("uids", [["s1", "a", "é", "s10"], ["00000000000000ff", "ff00000000000000"], []])
def test_uids_of_any_kind_are_columns(uids: list[str]) -> None:
    column = packed(uids)
    assert unpacked(column) == uids and unpacked(np.sort(column)) == sorted(uids)
    assert places(column, packed(uids[1:])).tolist() == list(range(len(uids)))[1:]


def test_digests_are_found_among_other_uids() -> None:
    uids = ["zebra", digest(1), "ant", digest(2)]
    assert places(packed(uids), packed([digest(2), digest(1)])).tolist() == [3, 1]
