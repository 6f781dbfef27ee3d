"""Caches filled without a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mllm_probe.cache.claims import Claims
from mllm_probe.cache.plan import FIRST, Plan, load_plan
from mllm_probe.cache.store import Store, write_json
from mllm_probe.extraction.plan import Planner
from mllm_probe.extraction.sharing import Work
from mllm_probe.extraction.stream import Extraction, join
from mllm_probe.files.digests import Digests
from mllm_probe.files.store_paths import CachePaths, GroupPaths
from mllm_probe.models.hf import HFModel
from mllm_probe.records.batches import unpacked
from mllm_probe.records.samples import Sample, digest
from mllm_probe.records.sites import Key
from tests.support.runs import Silent

KEYS = [
    Key.parse(name)
    for name in (
        "vision.02@mean_image",
        "connector@last_image",
        "lm.02@mean_image",
        "lm.02@last",
        "lm.04.norm@mean_text",
    )
]


def planner_for(model: HFModel, samples: Sequence[Sample], keys: Sequence[Key], batch: int, shared: bool) -> Planner:
    return Planner(model._blueprint.survey(samples, keys), model.anatomy, batch, 4, shared)


def plans_for(
    model: HFModel, store: Store, samples: Sequence[Sample], keys: Sequence[Key], batch: int = 5, shared: bool = False
) -> list[Plan]:
    planner, coverage = planner_for(model, samples, keys, batch, shared), store.coverage()
    missing = coverage.missing(keys, [sample.uid for sample in samples])
    known = coverage.knowing(planner.survey.prefix_of())
    return [plan for gap, uids in missing.items() for plan in planner.plans(known.gaps(gap, uids))]


def fill(
    model: HFModel,
    store: Store,
    samples: Sequence[Sample],
    keys: Sequence[Key],
    batch: int = 5,
    shared: bool = False,
    reporter: Silent | None = None,
) -> int:
    plans = plans_for(model, store, samples, keys, batch, shared)
    work, by_uid = Work("float32", workers=1), {sample.uid: sample for sample in samples}
    with Claims() as claims:
        extraction = Extraction(model, by_uid, store, work, reporter or Silent())
        done = extraction.run([plan for plan in plans if plan.read], claims)
    for plan in plans:
        if not plan.read:
            join(plan, store)
    return int(done["samples"])


def contents(store: Store) -> dict[str, bytes]:
    root = store.paths.root
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def as_an_older_release(paths: GroupPaths) -> dict[str, Any]:
    """Write a group's plan as releases before the columns did, and named its folder."""
    plan = load_plan(paths)
    contents = [plan.content(number) for number in range(plan.shards)]
    stored = {
        "units": [{"samples": unit.samples, "shard": unit.shard, "prefix": unit.prefix} for unit in plan.units],
        "spaces": {str(key): space for key, space in plan.spaces.items()},
        "prefixes": dict(zip(unpacked(plan.samples), unpacked(plan.prefixes[plan.prefix]), strict=True)),
        "owners": sorted(uid for content in contents for uid in content.owners),
        "prompts": plan.prompts,
        **({} if plan.format == FIRST else {"format": plan.format}),
    }
    assert digest({name: value for name, value in stored.items() if name != "prompts"}) == paths.root.name
    write_json(paths.root / "plan.json", stored, indent=None)
    paths.plan.unlink()
    return stored


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(CachePaths(tmp_path / "cache"), Digests(tmp_path / "digests.json"))


SETTINGS = {
    "weights": "pretrained",
    "quantization": "nf4",
    "quantize": ["lm"],
    "dtype": "float32",
    "storage": "float32",
    "attn": "sdpa",
    "prompt": {"chat": "auto", "system": None, "generation_prompt": True},
    "padding_side": "right",
    "picture_backend": "pillow",
}
