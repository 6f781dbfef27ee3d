"""effects.csv and effects.safetensors: what was written is read again, and what is damaged is named."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from mllm_probe.errors import DataError
from mllm_probe.files.paths import RunPaths
from mllm_probe.results.effects import COLUMNS, Effect, Sweep, load_effects, load_sweep, save_effects, save_sweep
from mllm_probe.scoring.effect_results import save_results
from mllm_probe.scoring.effects import Scored
from tests.support.sweeps import EDGES, NAMED, nothing, patched, steered, sweep_of, windows

SWEEPS = {"knockout": sweep_of(windows(EDGES[:1], 3, 2)), "patching": patched(nothing), "steering": steered(nothing)}


@pytest.mark.parametrize("kind", list(SWEEPS))
def test_outcomes_are_read_as_they_were(kind: str, tmp_path: Path) -> None:
    sweep = SWEEPS[kind]
    save_sweep(tmp_path / "a.safetensors", sweep)
    found = load_sweep(tmp_path / "a.safetensors")
    for field in fields(Sweep):
        one, other = getattr(found, field.name), getattr(sweep, field.name)
        if field.name == "slopes":
            assert (one is None) == (other is None)
            if one is not None:
                assert one.conditions == other.conditions and np.array_equal(one.values, other.values)
        elif isinstance(other, np.ndarray):
            assert np.array_equal(one, other), field.name
        else:
            assert one == other, field.name


@pytest.mark.parametrize("kind", list(SWEEPS))
def test_rows_are_read_as_they_were(kind: str, tmp_path: Path) -> None:
    rows = Scored(SWEEPS[kind], NAMED).rows
    save_effects(tmp_path / "effects.csv", rows)
    table = load_effects(tmp_path / "effects.csv")
    assert tuple(table.columns) == COLUMNS and len(table) == len(rows)
    for row, found in zip(rows, table.itertuples(index=False), strict=True):
        for field in fields(Effect):
            wrote, read = getattr(row, field.name), getattr(found, field.name)
            assert read == wrote or (wrote is None and read != read), field.name


def saved(folder: Path) -> RunPaths:
    paths = RunPaths(folder)
    folder.mkdir()
    save_results(paths, Scored(SWEEPS["knockout"], NAMED), None, {"seconds": {"all": 1.0}})
    return paths


def test_a_digit_that_was_changed_is_found(tmp_path: Path) -> None:
    paths = saved(tmp_path / "a")
    assert len(load_effects(paths.effects)) == 18
    text = paths.effects.read_text()
    paths.effects.write_text(text.replace("0.95", "0.90", 1))
    with pytest.raises(DataError, match=r"effects\.csv differs from what its run wrote"):
        load_effects(paths.effects)
    raw = bytearray(paths.outcomes.read_bytes())
    raw[-1] ^= 1
    paths.outcomes.write_bytes(bytes(raw))
    with pytest.raises(DataError, match=r"effects\.safetensors differs from what its run wrote"):
        load_sweep(paths.outcomes)


def test_files_that_are_none_of_ours_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"effects\.csv does not exist; name the folder of a finished"):
        load_effects(tmp_path / "effects.csv")
    with pytest.raises(DataError, match="does not exist"):
        load_sweep(tmp_path / "effects.safetensors")
    (tmp_path / "effects.safetensors").write_bytes(b"none")
    with pytest.raises(DataError, match="is damaged"):
        load_sweep(tmp_path / "effects.safetensors")
    save_effects(tmp_path / "effects.csv", [])
    with pytest.raises(DataError, match="it has no row"):
        load_effects(tmp_path / "effects.csv")
    (tmp_path / "effects.csv").write_text("run,kind\r\na,b\r\n")
    with pytest.raises(DataError, match="it lacks the column"):
        load_effects(tmp_path / "effects.csv")


def test_tensors_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    save_sweep(path, SWEEPS["knockout"])
    with safe_open(path, "np") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file({**arrays, "kl": arrays["kl"][1:]}, path, metadata)
    with pytest.raises(DataError, match=r"kl has the shape \(8, 80\) and not \(9, 80\)"):
        load_sweep(path)
    save_file({name: one for name, one in arrays.items() if name != "p"}, path, metadata)
    with pytest.raises(DataError, match="is damaged"):
        load_sweep(path)
