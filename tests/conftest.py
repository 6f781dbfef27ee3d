"""Shared pieces of the tests: tiny real checkpoints, drawn samples, a reporter that stays silent."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip import CLIPImageProcessorPil

from mllm_probe.cli import entry as cli
from mllm_probe.config.model import ModelSettings, PromptSettings
from mllm_probe.data.coco import Selection
from mllm_probe.data.scenes import Scenes
from mllm_probe.files.digests import Digests
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.records.samples import Collection, Examples, Sample
from mllm_probe.tasks.entailment import Entailment
from mllm_probe.tasks.splits import Folds

torch.set_num_threads(1)

REAL = Path(os.environ.get("MLLM_PROBE_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
IMAGE_TAG = {"image_token": "<image>"}
CHAT = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for p in m['content'] %}{{ '<image>\\n' if p['type'] == 'image' else p['text'] }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)


class Silent:
    """A Reporter that remembers its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        pass


def make_tokenizer(
    named: Mapping[str, str] = IMAGE_TAG, others: tuple[str, ...] = (), bos: bool = True
) -> PreTrainedTokenizerFast:
    """Byte-level BPE with few merges, so that words of captions have several tokens; ids 0-2 are pad, bos, eos."""
    special = ["<pad>", "<s>", "</s>", *named.values(), *others]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 316,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["USER: This image contains: a red circle. Is this right? ASSISTANT:"] * 4, trainer)
    if bos:
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", extra_special_tokens=dict(named)
    )


def save_llava(folder: Path, max_positions: int = 512) -> Path:
    """A tiny LLaVA in the shape of LLaVA-1.5: CLIP with a class token, features of the last block but one."""
    tokenizer = make_tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=max_positions,
            initializer_range=0.2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        image_token_id=3,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=16,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("tiny") / "llava")


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="session")
def scenes(outputs: Path) -> Collection:
    return Scenes(pictures=40).load(outputs, Selection(), Digests(outputs / "digests.json"))


@pytest.fixture(scope="session")
def entailment(scenes: Collection) -> Examples:
    return Entailment().examples(scenes, Folds(blocks=4))


@pytest.fixture(scope="session")
def samples(entailment: Examples) -> Sequence[Sample]:
    """Twelve statements of different lengths about three pictures."""
    return entailment.samples[:12]


def blueprint_of(checkpoint: Path, padding_side: str = "right", chat: str = "auto", **settings: object) -> Blueprint:
    options = {"quantization": "none", "dtype": "float32", **settings}
    return Blueprint(checkpoint, ModelSettings(**options), PromptSettings(chat=chat), padding_side)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> HFModel:
    """The tiny LLaVA in float32, not quantised."""
    return load_model(blueprint_of(checkpoint), "cpu")


Run = Callable[..., tuple[int, str, str]]
QUICK = ("experiment=smoke", "data.n=30", "dataset.pictures=30", "sweep.draws=50")


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the console script's function in an empty folder: (exit code, output, error output)."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "")
        monkeypatch.setattr(sys, "argv", ["mllm-probe"])
        try:
            cli.main(args)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def tiny(checkpoint: Path) -> tuple[str, ...]:
    return ("model=custom", f"model.path={checkpoint}", "model.dtype=float32")


def stored(cache: Path, key: str) -> dict[str, np.ndarray]:
    """{uid: row [D]} of a key with a row for each uid, from the shards of a cache, with nothing but safetensors."""
    rows: dict[str, np.ndarray] = {}
    for path in sorted(cache.glob("groups/*/*.safetensors")):
        with safe_open(path, "np") as file:
            index = json.loads(file.metadata()["index"])
            if key in index["spaces"]:
                rows |= dict(zip(index[index["spaces"][key]], file.get_tensor(key), strict=True))
    return rows
