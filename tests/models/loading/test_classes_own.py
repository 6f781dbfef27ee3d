"""A checkpoint of an architecture that nobody knows, with code of its own, goes the whole way on the user's word."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers.models.clip import CLIPImageProcessorPil

from mllm_probe.config.model import BlockSettings
from mllm_probe.errors import ModelError
from mllm_probe.extraction.taps import read_states
from mllm_probe.models.hf import load_model
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import Key
from mllm_probe.results.score_file import load_scores
from tests.support.checkpoints import blueprint_of, make_tokenizer
from tests.support.own_model import OwnConfig, OwnModel, OwnProcessor
from tests.support.runs import QUICK, Run

TRUST = "model.trust_remote_code=true"
BLOCKS = {"vision": "eyes.stack", "connector": "bridge", "lm": "stack"}
NAMED = tuple(f"model.blocks.{tower}={name}" for tower, name in BLOCKS.items())

OWN = Path(__file__).parents[2] / "support" / "own_model.py"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config, weights and processor, each with a copy of tests/support/own_model.py and its name in `auto_map`."""
    folder, tokenizer = tmp_path_factory.mktemp("own") / "own", make_tokenizer()
    OwnConfig.register_for_auto_class()
    OwnModel.register_for_auto_class("AutoModelForImageTextToText")
    OwnProcessor.register_for_auto_class()
    torch.manual_seed(0)
    OwnModel(OwnConfig(vocab_size=len(tokenizer))).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    OwnProcessor(images, tokenizer).save_pretrained(folder)
    assert (folder / "own_model.py").read_text() == OWN.read_text()
    return folder


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that is run is copied first; not into the user's own folder."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def test_the_whole_way(probe: Run, own: Path, tmp_path: Path) -> None:
    args = ("model=custom", f"model.path={own}", "model.dtype=float32", "layers=all", "guards=note", *QUICK)
    code, _, err = probe("run", *args, TRUST, *NAMED, "extract.positions=[last,mean_image]")
    assert code == 0, err
    table = load_scores(next((tmp_path / "outputs" / "run").glob("*/*")) / "scores.csv")
    assert set(table.tower.dropna()) == {"vision", "connector", "lm"}
    (identity,) = (tmp_path / "outputs" / "cache").glob("*/identity.json")
    fields = json.loads(identity.read_text())["fields"]
    assert fields["blocks"] == BLOCKS and fields["trust_remote_code"] is True
    assert {"own_model.py", "model.safetensors"} <= set(fields["files"])


@torch.inference_mode()
def test_every_tower_is_read_where_it_was_named(own: Path, samples: Sequence[Sample]) -> None:
    model = load_model(blueprint_of(own, trust_remote_code=True, blocks=BlockSettings(**BLOCKS)), "cpu")
    keys = [Key.parse(f"{site}@mean_image") for site in ("vision.02", "connector", "lm.03")]
    inputs, own_model = model._blueprint.process(samples[:1]), model._model
    states = own_model.eyes.patches(inputs["pixel_values"]).flatten(2).transpose(1, 2)
    patches = own_model.eyes.stack[1](own_model.eyes.stack[0](states))
    features = own_model.bridge(own_model.eyes.stack[2](patches))
    pictures = inputs["input_ids"][0] == 3
    states = own_model.embed(inputs["input_ids"])
    states[0, pictures] = features[0]
    for block in own_model.stack[:3]:
        states = block(states)
    found = read_states(model, model.collate(samples[:1], keys), keys, torch.float32)
    for key, wanted in zip(keys, (patches[0], features[0], states[0, pictures]), strict=True):
        assert torch.allclose(found.values[key][0], wanted.mean(dim=0), atol=1e-5), key


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            NAMED,
            "the model is code in the checkpoint, which is not run unless you trust it; read its *.py",
        ),
        ((TRUST,), "OwnModel has no language tower to be found by structure (block lists seen: eyes.stack, stack); "),
        (
            (TRUST, *NAMED[:2], "model.blocks.lm=stak"),
            "model.blocks.lm=stak is no list of blocks in OwnModel; block lists ",
        ),
        (
            (TRUST, NAMED[0], NAMED[2]),
            "one connector is expected next to the language model and eyes, found ['embed', 'bridge', 'gauge'",
        ),
        ((TRUST, *NAMED, "model.blocks.connector=gap"), "connector=gap is no module of OwnModel; it has embed, eyes, "),
        ((*NAMED, "model.blocks.ears=x"), "'model.blocks.ears' is no setting of `run`; choose one of: connector, lm, "),
    ],
)
def test_what_is_not_trusted_or_not_there(
    probe: Run, own: Path, tmp_path: Path, args: tuple[str, ...], message: str
) -> None:
    code, _, err = probe("run", "model=custom", f"model.path={own}", *QUICK, *args)
    assert code == 1 and message in err and "Traceback" not in err
    assert not list(tmp_path.rglob("*.safetensors")) and (tmp_path / "modules").exists() == (TRUST in args)


def test_a_processor_alone_may_be_code_of_the_checkpoint(own: Path, checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "llava", ignore=shutil.ignore_patterns("*.safetensors"))
    for name in ("processor_config.json", "own_model.py"):
        shutil.copy(own / name, folder / name)
    with pytest.raises(ModelError, match="the processor is code in the checkpoint, which is not run"):
        blueprint_of(folder)
    assert type(blueprint_of(folder, trust_remote_code=True).processor).__name__ == "OwnProcessor"


def test_named_blocks_that_are_found_anyway_change_nothing_but_the_cache(checkpoint: Path) -> None:
    found = blueprint_of(checkpoint).structure
    assert (
        blueprint_of(checkpoint, blocks=BlockSettings(**found.blocks, connector=found.whole["connector"])).structure
        == found
    )
