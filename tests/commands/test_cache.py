"""`mllm-probe cache` on real caches: what is listed is there, what rots is found, what goes is what was named."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from mllm_probe.cache.coverage import Identity, identify
from mllm_probe.cache.store import Store
from mllm_probe.cache.upkeep import IDLE, Cache, remove
from mllm_probe.cache.verify import verify
from mllm_probe.cli import entry as cli
from mllm_probe.config.sentences import show
from mllm_probe.errors import CacheError
from mllm_probe.experiment.cache_identity import name_cache
from mllm_probe.files.digests import Digests, open_digests
from mllm_probe.files.paths import OutputPaths
from mllm_probe.files.store_paths import CachePaths, GroupPaths
from mllm_probe.models.hf import HFModel
from mllm_probe.records.samples import Sample
from mllm_probe.report.terminal.cache_tables import abbreviate, gigabytes
from tests.support.caches import KEYS, SETTINGS, fill
from tests.support.runs import QUICK, tiny

Call = Callable[..., tuple[int, str, str]]
LEFT, RIGHT = (
    identify({"config.json": "0123456789", "model.safetensors": letter * 10}, **SETTINGS | {"padding_side": side})
    for letter, side in (("a", "left"), ("b", "right"))
)


@pytest.fixture(scope="module")
def filled(
    model: HFModel, samples: Sequence[Sample], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OutputPaths]:
    """Two caches: three groups of a shard per sample, then a fourth in LEFT that was never finished."""
    own = OutputPaths(tmp_path_factory.mktemp("filled") / "outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mllm_probe.extraction.plan.SHARD_UNITS", 1)
        store = store_of(own, LEFT)
        name_cache(store, LEFT, "tiny")
        fill(model, store, samples[:8], KEYS[:4], batch=1)
        fill(model, store, samples[:8], KEYS, batch=1)
        before = {group.name for group in folders(own, LEFT)}
        fill(model, store, samples[8:], KEYS[3:], batch=1)
        (last,) = (group for group in folders(own, LEFT) if group.name not in before)
        GroupPaths(last).manifest.unlink()
        other = store_of(own, RIGHT)
        name_cache(other, RIGHT, "tiny")
        fill(model, other, samples, KEYS, batch=1)
    yield own


@pytest.fixture
def own(filled: OutputPaths, tmp_path: Path) -> OutputPaths:
    """A copy for one test, with a memo that vouches for every shard as it is now."""
    copy = OutputPaths(tmp_path / "outputs")
    shutil.copytree(filled.root, copy.root)
    for identity in (LEFT, RIGHT):
        store_of(copy, identity).coverage()
    return copy


@pytest.fixture
def call(own: OutputPaths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """`mllm-probe cache ...` in the folder that holds outputs/: (exit code, output, error output)."""
    monkeypatch.chdir(own.root.parent)
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return lambda *args: called(capsys, *args)


def called(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    try:
        cli.main(["cache", *args])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def store_of(own: OutputPaths, identity: Identity) -> Store:
    return Store(own.cache(identity.digest), open_digests(own.digests))


def folders(own: OutputPaths, identity: Identity) -> list[Path]:
    return sorted(own.cache(identity.digest).groups.iterdir())


def finished(own: OutputPaths, identity: Identity) -> list[GroupPaths]:
    return [GroupPaths(path) for path in folders(own, identity) if GroupPaths(path).manifest.exists()]


def unfinished(own: OutputPaths) -> GroupPaths:
    (group,) = (path for path in folders(own, LEFT) if not GroupPaths(path).manifest.exists())
    return GroupPaths(group)


def everything(own: OutputPaths) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in own.root.rglob("*") if path.is_file()}


def age(path: Path, seconds: float) -> None:
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        os.utime(file, (time.time() - seconds,) * 2)


def flip(path: Path) -> None:
    """As a disk rots: one bit, and neither size nor time nor inode change."""
    seen = path.stat()
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(bytes(content))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def row(out: str, begins: str) -> list[str]:
    (line,) = (line for line in out.splitlines() if line.startswith(f"{begins} "))
    return re.split(r"  +", line.strip())


def test_ls_counts_what_is_there(call: Call, own: OutputPaths) -> None:
    code, out, _ = call("ls")
    assert code == 0
    left, right = row(out, LEFT.digest), row(out, RIGHT.digest)
    shared = "tiny, nf4 (lm), float32, sdpa, padding_side="
    assert left[1] == f"{shared}left" and right[1] == f"{shared}right"
    assert left[2:5] == ["8", "5", "2 + 1 unfinished"] and right[2:5] == ["12", "5", "1"]
    written = sum(p.stat().st_size for p in own.cache(LEFT.digest).root.rglob("*") if p.is_file())
    assert left[5] == gigabytes(written)


def test_ls_of_one_cache_shows_its_groups(call: Call, own: OutputPaths) -> None:
    group = unfinished(own)
    group.shard(0).unlink()
    group.retry(1).write_text('{"pieces": 2}')
    code, out, _ = call("ls", LEFT.digest[:5])
    assert code == 0
    assert row(out, group.root.name)[1:4] == ["unfinished, 3 of 4 shards", "lm 2,norm at last, mean_text", "4"]
    assert row(out, group.root.name)[5] == "1"
    states = [row(out, paths.root.name)[1] for paths in finished(own, LEFT)]
    assert all(state.startswith("finished, ") and state.endswith("shards") for state in states)


def test_verify_passes_whole_caches_and_changes_nothing(call: Call, own: OutputPaths) -> None:
    before = everything(own)
    code, out, err = call("verify")
    shards = sum(len(list(paths.root.glob("*.safetensors"))) for i in (LEFT, RIGHT) for paths in finished(own, i))
    assert code == 0, out
    assert f"3 finished groups in 2 caches, {shards} shards: all match their manifests" in out
    assert "1 unfinished group" in out and f"verify: {shards}/{shards} shards" in err
    assert everything(own) == before


def test_verify_finds_a_flipped_bit_the_memo_vouches_for(
    call: Call, own: OutputPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mllm_probe.files.digests._stat", lambda path: str(path.stat().st_mtime_ns)
    )  # rot changes no time
    for identity in (LEFT, RIGHT):
        store_of(own, identity).coverage()
    path = finished(own, LEFT)[0].shard(1)
    flip(path)
    assert not store_of(own, LEFT).coverage().damaged, "who reads it finds out, or verify, which reads all"
    code, out, err = call("verify")
    assert code == 1
    assert "mllm-probe: 1 file of 3 finished groups in 2 caches damaged or missing" in err
    assert f"{path.relative_to(own.root.parent)} is damaged: its bytes are not those in the manifest" in out
    assert "the run that made it, repeated, extracts it again" in out
    assert [damage.path for damage in store_of(own, LEFT).coverage().damaged] == [path], "the next run fixes it"
    assert call("verify", RIGHT.digest)[0] == 0, "the other cache is whole"


def test_verify_names_what_is_missing_and_what_is_too_much(call: Call, own: OutputPaths) -> None:
    first, second = finished(own, LEFT)
    gone, plan = first.shard(0), second.plan
    gone.unlink()
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    stray = second.root / "notes.txt"
    stray.write_text("mine")
    own.cache(RIGHT.digest).identity.unlink()
    code, out, err = call("verify")
    lines = {line.strip() for line in out.splitlines()}
    here = own.root.parent
    assert code == 1 and "3 files of" in err, "a stray file damages nothing"
    assert f"{gone.relative_to(here)} is missing" in lines
    assert f"{plan.relative_to(here)} is missing or is not the plan this group was made from" in lines
    assert f"{stray.relative_to(here)} is in no manifest" in lines
    assert any("identity.json is missing or does not match this identity" in line for line in lines)


def test_a_stray_file_alone_is_told_and_is_no_error(call: Call, own: OutputPaths) -> None:
    paths = finished(own, RIGHT)[0]
    beyond = paths.shard(len(list(paths.root.glob("*.safetensors"))))
    shutil.copy(paths.shard(0), beyond)
    code, out, _ = call("verify")
    assert code == 0 and f"{beyond.relative_to(own.root.parent)} is in no manifest" in out


def test_bytes_that_are_not_what_was_planned(own: OutputPaths) -> None:
    """Two shards exchanged before the manifest was written: every digest agrees, and yet the rows are others'."""
    paths = finished(own, RIGHT)[0]
    first, second = paths.shard(0).read_bytes(), paths.shard(1).read_bytes()
    paths.shard(0).write_bytes(second)
    paths.shard(1).write_bytes(first)
    manifest = json.loads(paths.manifest.read_text())
    manifest["shards"][:2] = reversed(manifest["shards"][:2])
    paths.manifest.write_text(json.dumps(manifest))
    found = list(verify(Cache(own.cache(RIGHT.digest)), Digests(own.root / "none"), lambda: None))
    assert [finding.what for finding in found] == ["is damaged: its index is not that of the plan"] * 2


def killed(path: Path, seconds: float) -> Path:
    """What `replacing` leaves beside `path` where its process was killed some time ago."""
    part = path.with_name(f".{path.name}.some.host.4711")
    part.write_bytes(b"half")
    age(part, seconds)
    return part


def claim(group: GroupPaths, number: int, seconds: float) -> Path:
    """A claim whose owner was last heard of some time ago."""
    path = group.claim(number, 0)
    path.write_text("{}")
    age(path, seconds)
    return path


def test_a_living_claim_keeps_its_group(call: Call, own: OutputPaths) -> None:
    """However long its shard takes: nothing else was written for hours."""
    group = unfinished(own)
    group.shard(3).unlink()
    age(group.root, 2 * IDLE)
    claim(group, 2, 2 * IDLE)
    living = claim(group, 3, 5)
    assert row(call("ls", LEFT.digest)[1], group.root.name)[1] == "unfinished, 3 of 4 shards, 2 claimed"
    assert call("verify")[0] == 0
    assert "and is kept" in call("prune", "--unfinished", "--yes")[1] and living.exists()
    age(living, 2 * IDLE)
    assert "nothing to remove" in call("prune")[1], "it goes with its group"
    assert call("prune", "--unfinished", "--yes")[0] == 0 and not group.root.exists()


def test_a_group_that_is_only_claimed_is_being_loaded_for(call: Call, own: OutputPaths) -> None:
    group = GroupPaths(own.cache(LEFT.digest).groups / "new")
    group.root.mkdir()
    claim(group, 0, 5)
    assert row(call("ls", LEFT.digest)[1], "new")[1] == "claimed, not begun"


def test_a_claim_to_what_is_finished_is_litter(call: Call, own: OutputPaths) -> None:
    young, old = (claim(finished(own, RIGHT)[0], number, seconds) for number, seconds in ((0, 5), (1, 2 * IDLE)))
    code, out, _ = call("verify")
    assert code == 0 and f"{old.relative_to(own.root.parent)} was left by a killed process" in out
    assert young.name not in out and "is in no manifest" not in out
    assert f"{old.relative_to(own.root.parent)} (<0.001 GB): claim of a killed process" in call("prune", "--yes")[1]
    assert young.exists() and not old.exists()


def test_prune_lists_first_and_removes_exactly_that(call: Call, own: OutputPaths) -> None:
    shard = finished(own, LEFT)[0].shard(0)
    old = [killed(shard, 2 * IDLE), killed(own.digests, 2 * IDLE)]
    kept = [
        killed(finished(own, RIGHT)[0].manifest, IDLE / 2),
        shard.with_name(".hidden"),
        own.root / ".x.json.h.1",
    ]
    for path in kept[1:]:
        path.write_text("not ours")
        age(path, 2 * IDLE)
    age(unfinished(own).root, 2 * IDLE)
    before = everything(own)
    code, out, _ = call("prune")
    assert code == 0 and everything(own) == before
    assert {line.split(" ")[0] for line in out.splitlines()[:-1]} == {str(p.relative_to(own.root.parent)) for p in old}
    assert "would be removed: <0.001 GB in 2 places; add --yes to remove" in out
    code, out, _ = call("prune", "--yes")
    assert code == 0 and "removed: <0.001 GB in 2 places" in out
    assert before.keys() - everything(own).keys() == set(old)
    assert "nothing to remove" in call("prune", "--yes")[1]


@pytest.mark.parametrize("young", [True, False])
def test_only_an_idle_unfinished_group_goes(call: Call, own: OutputPaths, young: bool) -> None:
    group = unfinished(own)
    age(group.root, 2 * IDLE)
    part = killed(group.shard(9), 2 * IDLE)
    if young:
        age(group.shard(1), IDLE / 2)
        part.unlink()
    before = everything(own)
    assert call("prune", "--unfinished")[0] == 0 and everything(own) == before
    code, out, _ = call("prune", "--unfinished", "--yes")
    gone = before.keys() - everything(own).keys()
    assert code == 0 and group.root.exists() == young
    assert gone == (set() if young else {path for path in before if group.root in path.parents})
    assert ("and is kept" in out and "nothing to remove" in out) if young else "in 1 place" in out


def test_only_a_damaged_group_goes(call: Call, own: OutputPaths) -> None:
    group = finished(own, LEFT)[1]
    flip(group.shard(0))
    before = everything(own)
    code, out, _ = call("prune", "--damaged")
    assert code == 0 and everything(own) == before and "damaged: 00000.safetensors" in out
    assert call("prune", "--damaged", "--yes")[0] == 0
    assert before.keys() - everything(own).keys() == {path for path in before if group.root in path.parents}
    assert call("verify")[0] == 0


def test_a_named_cache_goes_as_a_whole(call: Call, own: OutputPaths) -> None:
    before = everything(own)
    code, out, _ = call("prune", LEFT.digest[:6])
    assert code == 0 and "the whole cache" in out and everything(own) == before
    assert call("prune", LEFT.digest[:6], "--yes")[0] == 0
    assert set(everything(own)) == {p for p in before if own.cache(LEFT.digest).root not in p.parents}
    assert call("prune", RIGHT.digest, "--unfinished", "--yes")[0] == 2, "named and selected at once is ambiguous"
    assert own.cache(RIGHT.digest).root.exists()


def test_prune_follows_no_link_out_of_the_cache(call: Call, own: OutputPaths, tmp_path: Path) -> None:
    away = tmp_path / "elsewhere"
    shutil.move(own.cache(RIGHT.digest).root, away)
    own.cache(RIGHT.digest).root.symlink_to(away)
    group = unfinished(own)
    age(group.root, 2 * IDLE)
    (group.root / "link").symlink_to(away)
    os.utime(group.root / "link", (0, 0), follow_symlinks=False)
    killed(away / "identity.json", 2 * IDLE)
    flip(finished(own, RIGHT)[0].shard(0))
    before = {path: path.read_bytes() for path in away.rglob("*") if path.is_file()}
    assert "links are not followed" in call("prune", RIGHT.digest, "--yes")[1]
    assert call("prune", "--unfinished", "--damaged", "--yes")[0] == 0
    assert not group.root.exists()
    with pytest.raises(CacheError, match="is a link or is in a linked folder"):
        remove(own.caches, finished(own, RIGHT)[0].root)
    assert {path: path.read_bytes() for path in away.rglob("*") if path.is_file()} == before


def test_another_release_is_left_alone_unless_named(call: Call, own: OutputPaths) -> None:
    """Its groups may look unfinished, and are not."""
    cache = CachePaths(own.cache(LEFT.digest).root)
    identity = json.loads(cache.identity.read_text())
    identity["fields"]["format"] = 1
    cache.identity.write_text(json.dumps(identity))
    age(cache.root, 2 * IDLE)
    assert "nothing to remove" in call("prune", "--unfinished", "--damaged", "--yes")[1]
    assert row(call("ls")[1], LEFT.digest)[4] == "format 1"
    assert "format 1 of another release and was not read" in call("verify")[1]
    assert call("prune", LEFT.digest, "--yes")[0] == 0 and not cache.root.exists()


def test_which_cache_is_meant(call: Call, own: OutputPaths) -> None:
    code, _, err = call("ls", "zz")
    assert code == 1 and "there is no cache 'zz'; choose one of: " in err and LEFT.digest in err and RIGHT.digest in err
    shutil.copytree(own.cache(LEFT.digest).root, own.caches / f"{LEFT.digest[:8]}ffffffff")
    code, _, err = call("verify", LEFT.digest[:8])
    assert code == 1 and f"several caches begin with '{LEFT.digest[:8]}'" in err
    assert call("prune", "../outputs")[0] == 1
    assert call("ls", LEFT.digest)[0] == 0, "a whole name is never ambiguous"


def test_without_a_cache(call: Call) -> None:
    for command in ("ls", "verify", "prune"):
        code, out, _ = call(command, "--outputs", "nowhere")
        assert code == 0 and "no cache yet in nowhere/cache" in out
    for command in ("verify", "prune"):
        code, _, err = call(command, "abc", "--outputs", "nowhere")
        assert code == 1 and "there is no cache 'abc', and no other yet" in err
    assert call()[0] == 2 and call("lsx")[0] == 2 and call("why", "one")[0] == 2
    assert call("--help")[0] == 0 and "IDENTITY" in call("ls", "--help")[1]


@pytest.fixture(scope="module")
def runs(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of real extractions: one, the same with more layers, and one with another prompt from other weights."""
    root, found = tmp_path_factory.mktemp("runs"), {}
    changed = shutil.copytree(checkpoint, root / "changed")
    flip(changed / "model.safetensors")
    wanted = {
        "narrow": (*tiny(checkpoint), "layers.towers=[lm]", "layers.range=[1,2]"),
        "wide": (*tiny(checkpoint), "layers.towers=[lm,vision]", "extract.workers=1"),
        "other": (*tiny(changed), "layers.towers=[lm]", "layers.range=[1,2]", "prompt.chat=off"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "argv", ["mllm-probe"])
        for name, args in wanted.items():
            patch.setenv("HYDRA_FULL_ERROR", "")
            cli.main(["extract", *args, *QUICK, f"hydra.run.dir={name}"])
            found[name] = root / name
    return found


def test_why_names_the_fields_that_differ(runs: dict[str, Path], call: Call) -> None:
    code, out, _ = call("why", str(runs["narrow"]), str(runs["other"]))
    assert code == 0 and "different caches" in out
    files = [json.loads((runs[name] / "identity.json").read_text())["fields"]["files"] for name in ("narrow", "other")]
    assert row(out, "file model.safetensors")[1:] == [one["model.safetensors"][:8] for one in files]
    assert row(out, "prompt.chat")[1:] == ["auto", "off"]
    assert "config.json" not in out and "dtype" not in out and "layers" not in out


def test_why_the_same_cache_serves_two_requests(runs: dict[str, Path], call: Call) -> None:
    digest = json.loads((runs["narrow"] / "identity.json").read_text())["digest"]
    code, out, _ = call("why", str(runs["narrow"]), str(runs["wide"]))
    assert code == 0 and f"same cache {digest}" in out and "extracts only what is missing" in out
    assert row(out, "layers.towers")[1:] == ["[lm]", "[lm,vision]"] and row(out, "layers.range")[1:] == [
        "[1,2]",
        "null",
    ]
    assert "workers" not in out and "extract.positions" not in out
    assert "both runs requested the same" in call("why", str(runs["wide"]), str(runs["wide"]))[1]


def test_why_needs_two_runs(runs: dict[str, Path], call: Call, tmp_path: Path) -> None:
    code, _, err = call("why", str(runs["narrow"]), str(tmp_path))
    assert code == 1 and err.startswith(f"mllm-probe: {tmp_path / 'identity.json'} does not exist; name the folder")
    (tmp_path / "identity.json").write_text("{")
    code, _, err = call("why", str(tmp_path), str(runs["narrow"]))
    assert code == 1 and "is not a readable identity" in err


def test_a_real_extraction_names_its_model_outside_the_identity(runs: dict[str, Path], call: Call) -> None:
    caches = OutputPaths(runs["narrow"].parent / "outputs").caches
    kept = json.loads((runs["narrow"] / "identity.json").read_text())
    stored = json.loads((caches / kept["digest"] / "identity.json").read_text())
    assert stored == {**kept, "model": "llava"}
    code, out, _ = call("verify", "--outputs", str(caches.parent))
    assert code == 0 and "3 finished groups in 2 caches" in out, "what the program itself wrote is whole"


def test_nothing_heavy_is_imported(runs: dict[str, Path], own: OutputPaths) -> None:
    for args in (["ls"], ["ls", LEFT.digest], ["verify"], ["prune"], ["why", str(runs["narrow"]), str(runs["other"])]):
        code = (
            "import sys; from mllm_probe.cli import entry as cli; cli.main(sys.argv[1:])\n"
            "heavy = {'torch', 'transformers', 'hydra', 'pandas', 'matplotlib'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        command = [sys.executable, "-c", code, "cache", *args]
        done = subprocess.run(command, cwd=own.root.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mllm-probe ca", {"cache"}),
        ("mllm-probe cache ", {"ls", "verify", "prune", "why"}),
        ("mllm-probe cache v", {"verify"}),
        ("mllm-probe cache ls ", set()),
    ],
)
def test_completion(line: str, expected: set[str]) -> None:
    environment = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    command = [sys.executable, "-m", "mllm_probe", "-sc", "query=bash"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


def test_keys_in_short() -> None:
    keys = [f"lm.{layer:02d}@last" for layer in (0, 1, 2, 5)] + ["lm.05.norm@mean_text", "connector@mean_image"]
    assert abbreviate(keys) == "lm 0-2,5,norm at last, mean_text; connector at mean_image"
    assert [show(value) for value in (None, True, 1, 0, "x", ["lm", 1])] == ["null", "true", "1", "0", "x", "[lm,1]"]
    assert [gigabytes(size) for size in (0, 10, 1_500_000, 2_000_000_000)] == ["0.000", "<0.001", "0.002", "2.000"]


def test_fits_and_labels_are_listed_and_removed_by_name(call: Call, own: OutputPaths) -> None:
    assert "fits" not in call("ls")[1]
    fit, vector = own.fits.fit("0123"), own.vectors("clip").part("4567")
    for path in (fit, vector):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(2_000_000))
    out = call("ls")[1]
    assert (
        "outputs/fits: 1 file, 0.002 GB, last written" in out and "`mllm-probe cache prune labels` removes them" in out
    )
    before = everything(own)
    assert "what sweeps have fitted" in call("prune", "fits")[1] and everything(own) == before
    assert call("prune", "fits", "--yes")[0] == 0
    assert before.keys() - everything(own).keys() == {fit}
    assert call("prune", "labels", RIGHT.digest, "--yes")[0] == 0
    assert not vector.exists() and not own.cache(RIGHT.digest).root.exists() and own.cache(LEFT.digest).root.exists()


def test_what_a_killed_sweep_wrote_of_a_fit_goes(call: Call, own: OutputPaths) -> None:
    own.fits.root.mkdir()
    whole = own.fits.fit("0123")
    whole.touch()
    age(whole, 2 * IDLE)
    part = killed(whole, 2 * IDLE)
    assert call("prune", "--yes")[0] == 0
    assert whole.exists() and not part.exists()
