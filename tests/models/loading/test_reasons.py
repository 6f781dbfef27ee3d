"""Families that cannot be read here say why in one sentence, and the table in docs/families.md repeats it."""

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from mllm_probe.errors import ModelError
from mllm_probe.extraction.proof import prove
from mllm_probe.models.hf import load_model
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import Key
from mllm_probe.results.score_file import load_scores
from tests.support.checkpoints import blueprint_of, make_tokenizer
from tests.support.families_more import CONVNEXT, FASTVIT, save_fast_vlm
from tests.support.naive_pass import DOCS, by_hand, close, read
from tests.support.runs import QUICK, Run

TIMM = {"model_type": "timm_wrapper", "architecture": "fastvit_mci3"}


def fast_vlm(folder: Path) -> None:
    told = {"model_type": "fast_vlm", "vision_config": TIMM, "text_config": {"model_type": "qwen2"}}
    (folder / "config.json").write_text(json.dumps(told))


UNREAD: dict[str, tuple[str, Callable[[Path], None]]] = {  # with what it would get further, its config
    "fast_vlm": ("timm", fast_vlm),
    "molmo2": ("torchvision", lambda folder: hf.Molmo2Config().save_pretrained(folder)),
    "phi4_multimodal": ("torchvision", lambda folder: hf.Phi4MultimodalConfig().save_pretrained(folder)),
}
CLASSES = {"molmo2": "Molmo2", "phi4_multimodal": "Phi4Multimodal"}


@pytest.mark.parametrize("name", sorted(UNREAD))
def test_the_documentation_says_what_is_not_read(name: str, tmp_path: Path) -> None:
    needs, config = UNREAD[name]
    if find_spec(needs) is not None:
        pytest.skip(f"{needs} is installed")
    kind = CLASSES.get(name, "Llava")
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": f"{kind}ImageProcessor"}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": f"{kind}Processor"}))
    config(tmp_path)
    with pytest.raises(ModelError) as error:
        blueprint_of(tmp_path)
    wanted = f"| `{name}` | {str(error.value).removeprefix(f'{tmp_path}: ')} |"
    lines = DOCS.read_text().splitlines()
    place = next((i for i, text in enumerate(lines) if text.startswith(f"| `{name}` |")), None)
    assert place is not None, f"docs/families.md lacks a row for {name}: {wanted}"
    if os.environ.get("MLLM_PROBE_WRITE_DOCS"):
        lines[place] = f"{wanted} {lines[place].rsplit(' | ', 1)[1]}"
        DOCS.write_text("\n".join(lines) + "\n")
    assert lines[place].startswith(wanted), wanted


@pytest.mark.parametrize(
    ("vision", "patch_size", "attn"), [(CONVNEXT, 32, "eager"), (FASTVIT, 64, "sdpa")], ids=["convnext", "fastvit"]
)
def test_a_vision_tower_of_convolutions(
    probe: Run, tmp_path: Path, samples: list[Sample], vision: dict[str, Any], patch_size: int, attn: str
) -> None:
    """FastVLM's connector and language model are read, each as called by hand; no block of its vision tower is."""
    if vision is FASTVIT:
        pytest.importorskip("timm")
    folder = save_fast_vlm(tmp_path / "fast", vision, patch_size)
    model = load_model(blueprint_of(folder, attn=attn), "cpu")
    assert model.anatomy.towers == ("connector", "lm")
    states, _, _ = by_hand(model, model._blueprint.process(samples[:1]))
    got = read(model, samples[:1], "lm.00@last", "lm.04@last", "connector@mean_image", "lm.00@mean_image")
    assert close(got["lm.00@last"][0], states[0][-1]) and close(got["lm.04@last"][0], states[4][-1])
    assert torch.allclose(got["connector@mean_image"], got["lm.00@mean_image"], atol=1e-5)
    assert prove(model, samples[:3], [Key.parse("lm.04@last")], 200).why == (
        "" if attn == "sdpa" else model.unshared(200)
    )
    args = ("model=custom", f"model.path={folder}", f"model.attn={attn}", "layers=all", "guards=note", *QUICK)
    args += ("model.dtype=float32", "sweep.seeds=[0]", "controls=none")
    code, _, err = probe("run", *args, "extract.positions=[last,mean_image]")
    assert code == 0, err
    table = load_scores(next((tmp_path / "outputs" / "run").glob("*/*")) / "scores.csv")
    assert set(table.tower.dropna()) == {"connector", "lm"}
