"""What a request costs and what it adds: estimates, budgets, row spaces on disk, tokens, prefix on and off."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mllm_probe.cache.store import Store
from mllm_probe.data.pictures import ahead
from mllm_probe.errors import ConfigError
from mllm_probe.extraction.estimate import Estimate, check_disk, estimate
from mllm_probe.extraction.plan import Planner
from mllm_probe.extraction.taps import Pooling, read_states
from mllm_probe.files.digests import Digests
from mllm_probe.files.store_paths import CachePaths
from mllm_probe.models.hf import HFModel
from mllm_probe.records.batches import Reading
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import Key
from mllm_probe.results.score_file import load_scores
from tests.support.caches import fill, planner_for
from tests.support.runs import QUICK, Run, Silent, stored, tiny

KEYS = [
    Key.parse(name) for name in ("vision.02@mean_image", "connector@tokens:image", "lm.02@last", "lm.04@tokens:text")
]
ONE_BYTE = dict.fromkeys(("vision", "connector", "lm", "rest"), 1.0) | {"stored": 4.0}
EXTRACT = ("task=entailment", "dataset.pictures=30", "data.n=30", "splits.blocks=4")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(CachePaths(tmp_path / "cache"), Digests(tmp_path / "digests.json"))


def bytes_of(store: Store) -> int:
    return sum(path.stat().st_size for path in store.paths.root.rglob("*.safetensors"))


def test_tokens_are_ragged_rows(model: HFModel, store: Store, samples: Sequence[Sample]) -> None:
    """Every token of the user's text, in order, once for each sample; of the picture, once for each picture."""
    fill(model, store, samples, KEYS, shared=True)
    coverage, uids = store.coverage(), [sample.uid for sample in samples]
    for key in KEYS:
        values, bounds = store.read(key, uids, coverage)
        for i, sample in enumerate(samples):
            (alone,) = read_states(model, model.collate([sample], [key]), [key], torch.float32).values.values()
            assert (values[bounds[i] : bounds[i + 1]] - alone).norm() <= 1e-5 * alone.norm()
    pictures = len({sample.digests[0] for sample in samples})
    (path,) = store.paths.root.rglob("*.safetensors")
    with safe_open(path, "pt") as file:
        assert file.get_slice("connector@tokens:image").get_shape() == [16 * pictures, 64]
        assert file.get_slice("lm.04@tokens:text").get_shape()[0] > 5 * len(samples)


@pytest.mark.parametrize("shared", [True, False])
def test_the_estimate_of_disk_is_what_is_written(
    model: HFModel, store: Store, samples: Sequence[Sample], shared: bool
) -> None:
    """Exact for pooled positions; for the tokens of a text an upper bound, the whole prompt."""
    planner = planner_for(model, samples, KEYS, 5, shared)
    pooled = [KEYS[0], KEYS[1], KEYS[2], Key.parse("lm.02@answer:Yes/No")]
    plans = planner.plans({tuple(pooled): [sample.uid for sample in samples]})
    found = estimate(plans, planner.survey, model.anatomy, model._blueprint.parameters, ONE_BYTE, 1e9)
    fill(model, store, samples, pooled, shared=shared)
    values = 0
    for path in store.paths.root.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            values += sum(file.get_tensor(name).nbytes for name in list(file.keys()) if "#" not in name)
    assert found.disk == values
    assert found.seconds > 0 and found.memory > sum(model._blueprint.parameters.values())
    ragged = planner.plans({tuple(KEYS): [sample.uid for sample in samples]})
    more = estimate(ragged, planner.survey, model.anatomy, model._blueprint.parameters, ONE_BYTE, 1e9)
    fill(model, store, samples, KEYS, shared=shared)
    assert more.disk > bytes_of(store) > found.disk


def test_disk_holds_the_rows_and_little_else(model: HFModel, store: Store, samples: Sequence[Sample]) -> None:
    """At most 5 % more than rows x width x bytes, summed over both row spaces, of all layers at one position each."""
    sites = list(model.anatomy.sites())
    keys = [Key(site, "mean_image") for site in sites] + [Key(site, "last") for site in sites if site.tower == "lm"]
    fill(model, store, samples, keys, shared=True)
    pictures = len({sample.digests[0] for sample in samples})
    rows = sum(pictures if model.anatomy.space(key) == "prefix" else len(samples) for key in keys)
    assert bytes_of(store) - 16_000 <= rows * 64 * 4, "an index of some kB, whatever the width"
    assert bytes_of(store) >= rows * 64 * 4


def test_the_budget_and_the_free_space(tmp_path: Path) -> None:
    huge = Estimate(disk=200e9, memory=0, seconds=4000)
    with pytest.raises(ConfigError, match=r"needs about 200 GB on disk, more than extract.max_disk_gb=100; raise it"):
        check_disk(huge, tmp_path, 100)
    with pytest.raises(ConfigError, match=r"needs about 2e\+12 GB on disk, and .* has .* GB left; paths.outputs="):
        check_disk(Estimate(2e21, 0, 0), tmp_path / "new" / "place", 1e13)
    assert str(huge) == "about 2e+02 GB on disk, 0 GB of memory and 67 min"


def test_the_command_shows_the_estimate_and_refuses_before_the_weights_load(
    probe: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllm_probe.models.hf.load_model", lambda *_: pytest.fail("loaded"))
    code, _, err = probe("extract", *tiny(checkpoint), *EXTRACT, "extract.max_disk_gb=0.00001")
    assert code == 1 and "more than extract.max_disk_gb=1e-05" in err
    assert not list(tmp_path.glob("outputs/cache/*/groups"))


def test_tokens_through_the_command(probe: Run, checkpoint: Path) -> None:
    code, _, err = probe("extract", *tiny(checkpoint), *EXTRACT, "extract.positions=[tokens:caption]")
    assert code == 0 and err.index("GB on disk") < err.index("loading")
    code, _, err = probe("run", *tiny(checkpoint), *EXTRACT, "extract.positions=[tokens:text]")
    assert code == 1 and "position tokens:text holds a row for every token, and probe=logistic reads one row" in err


def test_prefix_off_stores_the_same_numbers(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    for prefix in ("auto", "off"):
        code, _, err = probe("run", *tiny(checkpoint), *QUICK, f"extract.prefix={prefix}", f"paths.outputs={prefix}")
        assert code == 0, err
    one, two = (next((tmp_path / prefix).glob("run/*/*")) for prefix in ("auto", "off"))
    assert json.loads((one / "summary.json").read_text())["extraction"]["prefix"] == "shared"
    assert json.loads((two / "summary.json").read_text())["extraction"]["prefix"] == "plain"
    shared, plain = (load_scores(folder / "scores.csv") for folder in (one, two))
    numbers = ["value", "low", "high", "p_value"]
    assert shared.drop(columns=numbers).equals(plain.drop(columns=numbers))
    counted = ~shared.metric.isin(("auroc", "average_precision"))  # one rounding exchanges two ranks that are close
    assert np.allclose(
        shared[counted][numbers].astype(float), plain[counted][numbers].astype(float), atol=1e-4, equal_nan=True
    )
    for key in dict.fromkeys(
        f"{site}@{position}" for site, position in zip(shared.site, shared.position, strict=True) if site
    ):
        rows, same = (stored(next((tmp_path / prefix).glob("cache/*/")), key) for prefix in ("auto", "off"))
        x, y = (np.stack([found[uid] for uid in rows]) for found in (rows, same))
        assert rows.keys() == same.keys() and np.linalg.norm(x - y) <= 1e-5 * np.linalg.norm(x), key


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("extract.prefix=on",), "extract.prefix=on is unknown; choose one of: auto, off"),
        (("extract.shard=2", "extract.num_shards=2"), "extract.shard=2 must be between 0 and 1"),
        (("extract.gpus=2", "extract.num_shards=2"), "extract.gpus and extract.num_shards both share out the shards"),
        (("extract.workers=-1",), "extract.workers=-1 must be 0 to 256"),
        (("extract.micro_batch=0",), "extract.micro_batch=0 must be 1 or more"),
        (("extract.gpus=0",), "extract.gpus=0 must be 1 to 1,000"),
        (("extract.num_shards=2",), "other processes have not filled their shards yet"),
    ],
)
def test_settings_of_the_work_are_checked(probe: Run, checkpoint: Path, args: tuple[str, ...], message: str) -> None:
    code, _, err = probe("run", *tiny(checkpoint), *EXTRACT, "extract.micro_batch=1", *args)
    assert code == 1 and message in err and "Traceback" not in err


def test_only_owners_pass_through_a_model_whose_pictures_alone_are_asked(
    model: HFModel, tmp_path: Path, samples: Sequence[Sample]
) -> None:
    planner = planner_for(model, samples, KEYS[:1], 5, True)
    (plan,) = planner.plans({(KEYS[0],): [sample.uid for sample in samples]})
    read = [uid for unit in plan.units for uid in unit.samples]
    assert len(read) == len({sample.digests[0] for sample in samples}) < len(samples) == len(plan.samples)
    store = Store(CachePaths(tmp_path / "cache"), Digests(tmp_path / "digests.json"))
    fill(model, store, samples, KEYS[:1], shared=True)
    assert store.coverage().missing(KEYS[:1], [sample.uid for sample in samples]) == {}


def test_passes_keep_to_their_tokens_and_the_longest_come_first(model: HFModel, samples: Sequence[Sample]) -> None:
    survey = model._blueprint.survey(samples, KEYS)
    longest = max(len(survey.ids(row)) for row in range(len(samples))) + survey.picture_tokens
    passes: list[int] = []
    for micro_batch in (1, 2, 4):
        planner = Planner(survey, model.anatomy, micro_batch, 4, shared=True)
        (plan,) = planner.plans({tuple(KEYS): [sample.uid for sample in samples]})
        assert sorted(uid for unit in plan.units for uid in unit.samples) == sorted(sample.uid for sample in samples)
        by_uid, sizes = {sample.uid: sample for sample in samples}, []
        for unit in plan.units:
            batch = model.collate([by_uid[uid] for uid in unit.samples], KEYS, shared=True)
            sizes.append(batch.inputs["input_ids"].numel())
        assert max(sizes) <= (micro_batch + 1) * longest
        passes.append(len(sizes))
    assert passes == sorted(passes, reverse=True) and passes[0] > passes[-1], "more tokens make fewer passes"


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_means_are_exact_in_float32_however_many_columns_are_widened_at_once(
    monkeypatch: pytest.MonkeyPatch, kind: torch.dtype
) -> None:
    torch.manual_seed(0)
    states = torch.randn(60, 8).to(kind)
    rows = [[range(7)], [[3], [50, 20, 21]], [], [range(30, 60)]]
    pooling = Pooling(Reading.of([[list(segment) for segment in sample] for sample in rows], among=60))
    expected = torch.stack([states[list(segment)].double().mean(0) for sample in rows for segment in sample])
    for room in (1, 180, 10**6):
        monkeypatch.setattr("mllm_probe.extraction.taps.WIDENED", room)
        assert pooling(states).dtype == torch.float32
        assert torch.allclose(pooling(states).double(), expected, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_order_and_not_too_early(workers: int) -> None:
    made: list[int] = []

    def make(i: int) -> int:
        made.append(i)
        return i * i

    for i, (item, square) in enumerate(ahead(range(20), make, workers)):
        assert (item, square) == (i, i * i)
        assert len(made) <= i + 1 + workers
    with pytest.raises(ZeroDivisionError):
        list(ahead([1, 0, 2], lambda i: 1 // i, workers))


def test_a_reporter_hears_of_every_pass(model: HFModel, store: Store, samples: Sequence[Sample], monkeypatch) -> None:
    seen: list[tuple[int, int]] = []
    reporter = Silent()
    monkeypatch.setattr(reporter, "progress", lambda stage, done, total, unit: seen.append((done, total)))
    fill(model, store, samples, KEYS, reporter=reporter)
    assert seen[0] == (0, len(samples)) and seen[-1] == (len(samples), len(samples))


def test_the_documented_lines_read_a_shard(model: HFModel, store: Store, samples: Sequence[Sample]) -> None:
    keys = [Key.parse("lm.04@last"), Key.parse("lm.04@mean_image")]
    fill(model, store, samples, keys, shared=True)
    (path,) = store.paths.root.rglob("*.safetensors")
    text = (Path(__file__).parents[2] / "docs" / "cache.md").read_text()
    code = text.split("```python")[1].split("```")[0].replace("lm.07", "lm.04")
    known: dict[str, object] = {}
    exec(code.replace("outputs/cache/ID/groups/PLAN/00000.safetensors", str(path)), known)
    order = [sample.uid for sample in samples]
    values, _ = store.read(keys[0], order, store.coverage())
    rows = [known["index"]["sample"].index(uid) for uid in order]  # type: ignore[index]
    assert np.array_equal(known["last"][rows], values.numpy())  # type: ignore[index]
    values, _ = store.read(keys[1], order, store.coverage())
    prefixes = known["index"]["prefixes"]  # type: ignore[index]
    rows = [known["index"]["prefix"].index(prefixes[uid]) for uid in order]  # type: ignore[index]
    assert np.array_equal(known["image"][rows], values.numpy())  # type: ignore[index]
