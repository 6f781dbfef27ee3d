"""The store: what is read is what was extracted, what is there is not extracted twice, whose it is is exact."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mllm_probe.cache.claims import Claims, clear, turn
from mllm_probe.cache.coverage import folder_digests, identify
from mllm_probe.cache.plan import load_plan
from mllm_probe.cache.store import Store
from mllm_probe.errors import CacheError
from mllm_probe.extraction.sharing import Work
from mllm_probe.extraction.stream import Extraction
from mllm_probe.extraction.taps import read_states
from mllm_probe.files.digests import Digests, file_digest, open_digests
from mllm_probe.files.paths import OutputPaths
from mllm_probe.files.store_paths import CachePaths, prune
from mllm_probe.models.hf import HFModel
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import Key
from tests.support.caches import KEYS, SETTINGS, contents, fill, plans_for
from tests.support.runs import QUICK, Run, Silent, tiny


def test_what_is_read_is_what_the_model_said(model: HFModel, store: Store, samples: Sequence[Sample]) -> None:
    assert fill(model, store, samples, KEYS) == len(samples)
    order = list(reversed(samples))
    coverage = store.coverage()
    chunk = read_states(model, model.collate(order, KEYS), KEYS, torch.float32)
    for key in KEYS:
        values, bounds = store.read(key, [sample.uid for sample in order], coverage)
        assert bounds.tolist() == list(range(len(order) + 1))
        assert torch.allclose(values, chunk.values[key], atol=2e-5), key


def test_image_states_are_stored_once_a_picture(model: HFModel, store: Store, samples: Sequence[Sample]) -> None:
    fill(model, store, samples, KEYS)
    pictures = len({sample.digests[0] for sample in samples})
    (path,) = store.paths.root.glob("groups/*/*.safetensors")
    with safe_open(path, "pt") as file:
        rows = {name: file.get_slice(name).get_shape()[0] for name in list(file.keys())}
        index = json.loads(file.metadata()["index"])
    assert pictures < len(samples)
    assert rows["vision.02@mean_image"] == rows["connector@last_image"] == rows["lm.02@mean_image"] == pictures
    assert rows["lm.02@last"] == rows["lm.04.norm@mean_text"] == len(samples)
    assert sorted(index["sample"]) == sorted(sample.uid for sample in samples)
    floats = 4 * 64 * (3 * pictures + 2 * len(samples))
    assert path.stat().st_size - floats < 8192, "a shard holds its rows and a small index, no parent tensors"


def test_a_covered_request_is_a_hit_and_a_wider_one_adds_only_what_is_missing(
    model: HFModel, store: Store, samples: Sequence[Sample]
) -> None:
    assert fill(model, store, samples[:8], KEYS[:4]) == 8
    before = {path: path.read_bytes() for path in store.paths.root.rglob("*.safetensors")}
    assert plans_for(model, store, samples[:8], KEYS[:4]) == []
    assert fill(model, store, samples, KEYS) == len(samples)
    assert all(path.read_bytes() == content for path, content in before.items())
    entries = store.groups().values()
    assert sorted((entry["samples"], len(entry["keys"])) for entry in entries) == [(4, 5), (8, 1), (8, 4)]
    coverage = store.coverage()
    for key in KEYS:
        values, _ = store.read(key, [sample.uid for sample in samples], coverage)
        alone = read_states(model, model.collate(samples, [key]), [key], torch.float32).values[key]
        assert torch.allclose(values, alone, atol=2e-5)


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Let the `at`-th batch raise KeyboardInterrupt, once; returns the growing list of batch sizes."""
    sizes, collate = [], HFModel.collate

    def dies(self: HFModel, batch: Sequence[Sample], *how: object) -> object:
        sizes.append(len(batch))
        if len(sizes) == at:
            raise KeyboardInterrupt
        return collate(self, batch, *how)

    monkeypatch.setattr(HFModel, "collate", dies)
    return sizes


def test_finished_shards_survive_a_kill(model: HFModel, store: Store, samples: Sequence[Sample], monkeypatch) -> None:
    """With one unit a shard, a crash in the third unit keeps two shards; the next run makes the same bytes."""
    monkeypatch.setattr("mllm_probe.extraction.plan.SHARD_UNITS", 1)
    whole = Store(CachePaths(store.paths.root.parent / "whole"), Digests(store.paths.root.parent / "memo.json"))
    fill(model, whole, samples, KEYS)
    calls = interrupt(monkeypatch, at=3)
    with pytest.raises(KeyboardInterrupt):
        fill(model, store, samples, KEYS)
    assert store.groups() == {}
    assert len(list(store.paths.root.rglob("*.safetensors"))) == 2
    assert not [path for path in store.paths.root.rglob(".*") if path.is_file()]
    fill(model, store, samples, KEYS)
    assert calls == [5, 5, 2, 2], "only the third unit is computed again"
    assert contents(store) == contents(whole)


def test_missing_rows_and_damaged_shards_are_named(model: HFModel, store: Store, samples: Sequence[Sample]) -> None:
    fill(model, store, samples[:2], KEYS[:1])
    with pytest.raises(CacheError, match=r"lm.02@last of sample .* run `mllm-probe extract`"):
        store.read(KEYS[3], [samples[0].uid], store.coverage())
    (path,) = store.paths.root.glob("groups/*/*.safetensors")
    path.write_bytes(path.read_bytes()[:40])
    coverage = store.coverage()
    assert [damage.path for damage in coverage.damaged] == [path]
    uids = [sample.uid for sample in samples[:2]]
    assert coverage.missing(KEYS[:1], uids) == {tuple(KEYS[:1]): uids}


def test_two_devices_never_share_a_store(model: HFModel, store: Store, samples: Sequence[Sample], monkeypatch) -> None:
    fill(model, store, samples[:2], KEYS[:1])
    there = model.provenance() | {"device": "some GPU"}
    monkeypatch.setattr(HFModel, "provenance", lambda self: there)
    before = sorted(store.paths.root.rglob("*"))
    with pytest.raises(CacheError, match="was filled with device cpu, this run has some GPU"):
        fill(model, store, samples[:8], KEYS[:1])
    assert sorted(store.paths.root.rglob("*")) == before


@pytest.mark.parametrize("field", ["device", "torch", "quantized_modules"])
def test_a_group_is_not_resumed_by_another_machine(
    model: HFModel, store: Store, samples: Sequence[Sample], monkeypatch, field: str
) -> None:
    """Killed after the first shard, resumed elsewhere: refused, since its bytes would not be the same."""
    monkeypatch.setattr("mllm_probe.extraction.plan.SHARD_UNITS", 1)
    interrupt(monkeypatch, at=2)
    with pytest.raises(KeyboardInterrupt):
        fill(model, store, samples, KEYS)
    there = model.provenance() | {field: ["other"]}
    monkeypatch.setattr(HFModel, "provenance", lambda self: there)
    with pytest.raises(CacheError, match=f"was filled with {field} .*, this run has 1 modules"):
        fill(model, store, samples, KEYS)


def test_new_statements_about_stored_pictures_need_no_pass(
    model: HFModel, store: Store, samples: Sequence[Sample]
) -> None:
    first = [sample for i, sample in enumerate(samples) if sample.digests[0] not in {s.digests[0] for s in samples[:i]}]
    rest = [sample for sample in samples if sample not in first]
    assert fill(model, store, first, KEYS[:3]) == len(first)
    assert rest and fill(model, store, rest, KEYS[:3]) == 0
    coverage = store.coverage()
    assert coverage.missing(KEYS[:3], [sample.uid for sample in samples]) == {}
    values, _ = store.read(KEYS[0], [sample.uid for sample in samples], coverage)
    chunk = read_states(model, model.collate(samples, KEYS[:1]), KEYS[:1], torch.float32)
    assert torch.allclose(values, chunk.values[KEYS[0]], atol=2e-5)


def test_the_manifest_holds_digests_and_prompts(model: HFModel, store: Store, samples: Sequence[Sample]) -> None:
    fill(model, store, samples, KEYS[:1])
    ((group, entry),) = store.groups().items()
    paths = store.paths.group(group)
    assert entry["shards"] == [file_digest(paths.shard(0))]
    assert entry["provenance"]["device"] == "cpu"
    assert len(load_plan(paths).prompts) == 3


def test_progress_goes_on_where_a_killed_run_stopped(
    model: HFModel, store: Store, samples: Sequence[Sample], monkeypatch
) -> None:
    monkeypatch.setattr("mllm_probe.extraction.plan.SHARD_UNITS", 1)
    (plan,) = plans_for(model, store, samples, KEYS)
    fill(model, store, samples, KEYS)
    store.paths.group(plan.digest).manifest.unlink()
    store.paths.group(plan.digest).shard(2).unlink()
    seen: list[tuple[int, int]] = []
    reporter = Silent()
    monkeypatch.setattr(reporter, "progress", lambda stage, done, total, unit: seen.append((done, total)))
    fill(model, store, samples, KEYS, reporter=reporter)
    assert seen == [(10, 12), (12, 12)]


def test_row_spaces_follow_causality(model: HFModel) -> None:
    from dataclasses import replace

    image, text = Key.parse("lm.02@mean_image"), Key.parse("lm.02@last")
    prefix_lm = replace(model.anatomy, causal=False)
    assert [model.anatomy.space(key) for key in (image, text)] == ["prefix", "sample"]
    assert [prefix_lm.space(key) for key in (image, text)] == ["sample", "sample"]
    assert prefix_lm.space(Key.parse("vision.01@mean_image")) == "prefix"


def test_the_identity_has_these_fields_and_no_others(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    """So that the test below cannot forget one."""
    probe("extract", *tiny(checkpoint), *QUICK)
    (path,) = tmp_path.glob("outputs/cache/*/identity.json")
    always = {"files", "layers", "format", "init_seed"}
    assert set(json.loads(path.read_text())["fields"]) == set(SETTINGS) | always


@pytest.mark.parametrize("field", sorted(SETTINGS))
def test_every_requested_setting_is_part_of_the_identity(field: str) -> None:
    changed = SETTINGS | {field: "something else"}
    assert identify({"config.json": "a"}, **SETTINGS).digest != identify({"config.json": "a"}, **changed).digest


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "processor_config.json", "chat_template.jinja"])
def test_every_file_of_the_checkpoint_is_part_of_the_identity(checkpoint: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    before = identify(folder_digests(copy, Digests(tmp_path / "a.json")), **SETTINGS)
    assert before.digest == identify(folder_digests(checkpoint, Digests(tmp_path / "b.json")), **SETTINGS).digest
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(bytes(content))
    assert before.digest != identify(folder_digests(copy, Digests(tmp_path / "a.json")), **SETTINGS).digest


@pytest.mark.parametrize(
    "name", ["original/params.json", "notes.txt", "LICENSE", "curve.png", "run-1/model.safetensors"]
)
def test_files_that_no_loader_reads_are_not(checkpoint: Path, tmp_path: Path, name: str) -> None:
    """Where the checkpoint brings code, that may read them."""
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    before, digests = folder_digests(copy, Digests(tmp_path / "a.json")), Digests(tmp_path / "b.json")
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text("something")
    assert folder_digests(copy, digests) == before
    (copy / "modeling_own.py").touch()
    assert {name, "modeling_own.py"} <= set(folder_digests(copy, digests))


def test_random_weights_count_by_seed_and_not_by_file() -> None:
    random = SETTINGS | {"weights": "random", "init_seed": 0}
    one, two = ({"model.safetensors": digest, "config.json": "c"} for digest in "ab")
    assert identify(one, **random).digest == identify(two, **random).digest
    assert identify(one, **random).digest != identify(one, **random | {"init_seed": 1}).digest


def test_digests_are_memoised_and_a_damaged_memo_is_started_anew(tmp_path: Path, monkeypatch) -> None:
    file, memo = tmp_path / "x", tmp_path / "memo.json"
    file.write_bytes(b"content")
    digests = Digests(memo)
    first = digests.of(file)
    digests.save()
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("read again"))
    assert open_digests(memo).of(file) == first
    monkeypatch.undo()
    file.write_bytes(b"CONTENT!")
    assert open_digests(memo).of(file) != first
    memo.write_text("{")
    assert open_digests(memo).of(file) != first


def test_what_several_processes_learn_is_kept(tmp_path: Path, monkeypatch) -> None:
    memo, files = tmp_path / "memo.json", [tmp_path / "x", tmp_path / "y"]
    both = [Digests(memo), Digests(memo)]
    for file, digests in zip(files, both, strict=True):
        file.write_bytes(file.name.encode())
        digests.of(file)
    for digests in both:
        digests.save()
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("read again"))
    for digests in (open_digests(memo), both[1]):
        assert digests.of(files[0]) != digests.of(files[1])


def test_gaps_are_those_a_naive_search_finds(model: HFModel, store: Store, samples: Sequence[Sample]) -> None:
    """Three groups that overlap in samples and keys; some samples and a key are in none."""
    fill(model, store, samples[:6], KEYS[:4])
    fill(model, store, samples[4:9], KEYS[3:])
    fill(model, store, samples[:2], KEYS)
    coverage = store.coverage()
    known = coverage.knowing({sample.uid: sample.uid for sample in samples[9:]})
    keys = [*KEYS, Key.parse("lm.03@last")]
    uids = [sample.uid for sample in reversed(samples)]

    def held(key: Key, uid: str) -> bool:
        rows = [shard.uids[space] for shard in coverage.shards if (space := shard.spaces.get(key))]
        return any(uid in row or known.prefixes[uid] in row for row in rows)

    expected: dict[tuple[Key, ...], list[str]] = {}
    for uid in uids:
        expected.setdefault(tuple(key for key in keys if not held(key, uid)), []).append(uid)
    found = known.gaps(keys, uids)
    assert found == expected and list(found) == list(expected) and len(expected) > 3
    assert known.missing(keys[:1], []) == known.missing([], uids) == {}


def test_bfloat16_storage_round_trips(model: HFModel, store: Store, samples: Sequence[Sample]) -> None:
    plans = plans_for(model, store, samples[:3], KEYS[3:4])
    with Claims() as claims:
        Extraction(model, {s.uid: s for s in samples}, store, Work("bfloat16"), Silent()).run(plans, claims)
    values, _ = store.read(KEYS[3], [sample.uid for sample in samples[:3]], store.coverage())
    exact = read_states(model, model.collate(samples[:3], KEYS[3:4]), KEYS[3:4], torch.float32).values[KEYS[3]]
    assert values.dtype == torch.bfloat16
    assert np.allclose(values.float().numpy(), exact.numpy(), rtol=2**-8)


def test_a_memo_that_cannot_be_written_costs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that is read-only; a full one is told as such."""
    monkeypatch.setattr(
        "mllm_probe.files.digests.replacing", lambda _: (_ for _ in ()).throw(OSError(30, "Read-only disk"))
    )
    (tmp_path / "file").write_text("content")
    notes: list[str] = []
    digests = open_digests(tmp_path / "digests.json", tell=notes.append)
    for _ in range(2):
        assert digests.of(tmp_path / "file") == file_digest(tmp_path / "file")
        digests.save()
        (tmp_path / "file").write_text("other content")
    assert notes == [
        f"{tmp_path}/digests.json cannot be written (Read-only disk): new digests are computed again each time"
    ]
    monkeypatch.setattr(
        "mllm_probe.files.digests.replacing", lambda _: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(OSError, match="No space left"):
        open_digests(tmp_path / "other.json").remembered(tmp_path / "file", "what", str)
        digests.of(tmp_path / "file")
        digests.save()


def test_the_hint_names_the_outputs_that_are_not_the_usual_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prune("--damaged", Path("outputs")) == "`mllm-probe cache prune --damaged`"
    assert prune("", Path("my disk")) == "`mllm-probe cache prune --outputs 'my disk'`"
    monkeypatch.chdir(tmp_path)
    for place, said in (("outputs", "--yes`"), ("other", "--yes --outputs other`")):
        paths = OutputPaths(Path(place)).cache("id")
        paths.group("g").root.mkdir(parents=True)
        paths.group("g").manifest.write_text("[]")
        with pytest.raises(CacheError, match=f"`mllm-probe cache prune --damaged {said} removes its group"):
            Store(paths, Digests(Path("none"))).coverage()


def test_what_is_left_of_unfinished_work_is_no_empty_folder(tmp_path: Path) -> None:
    parts = OutputPaths(tmp_path / "outputs").parts("run")
    with turn(parts, "fits the same sweep", Silent()):
        (parts.root / "part").touch()
    clear(parts)
    assert not list(tmp_path.iterdir())
