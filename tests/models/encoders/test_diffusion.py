"""Diffusion models as encoders, against diffusers' own pipelines and whole passes, on tiny random checkpoints."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers as hf
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from safetensors.torch import load_file, save_file

from mllm_probe.config.vision import EncoderSettings
from mllm_probe.data.pictures import open_rgb
from mllm_probe.data.spair import read_pairs
from mllm_probe.errors import ConfigError, MllmProbeError, ModelError
from mllm_probe.files.readback import load_rows
from mllm_probe.models.encoders.by_kind import Encoder, load_encoder, plan_encoder
from mllm_probe.models.loading import checkpoint
from mllm_probe.results.vision import VisionScore
from mllm_probe.vision.c_score import find_keypoints, hard_argmax, pck
from mllm_probe.vision.frames import letterbox
from tests.support.encoders import noise, save_clip, write_spair
from tests.support.pipelines import BETAS, PIPELINES, save_pipeline
from tests.support.runs import Run


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("diffusion")
    return {name: save_pipeline(root / name, name) for name in PIPELINES}


def loaded(folder: Path, **settings: Any) -> Encoder:
    return load_encoder(plan_encoder("x", EncoderSettings(path=str(folder), **settings)), "own", "cpu")


def read_by_hand(folder: Path, picture: Image.Image, step: int) -> list[torch.Tensor]:
    """What leaves the middle and the up blocks [D, h, w], or the embeddings and the blocks [L, D], in a whole pass of
    what diffusers loads, with noise by its formula and conditions as its pipelines make them."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    seed = hashlib.sha256(np.asarray(picture).tobytes()).hexdigest()[:16]
    draw = torch.Generator().manual_seed(int(seed, 16))
    pixels = torch.tensor(np.asarray(picture) / 127.5 - 1, dtype=torch.float32).permute(2, 0, 1)[None]
    betas = np.linspace(BETAS[0] ** 0.5, BETAS[1] ** 0.5, 1000) ** 2
    kept = np.prod(1 - betas[: step + 1])
    net = getattr(pipe, "unet", None) or pipe.transformer
    blocks = [net.mid_block, *net.up_blocks] if hasattr(pipe, "unet") else [net.pos_embed, *net.transformer_blocks]
    seen: list[torch.Tensor] = []
    for block in blocks:
        block.register_forward_hook(lambda _module, _inputs, out: seen.append(out[0]))
    with torch.no_grad():
        latents = pipe.vae.encode(pixels).latent_dist.sample(draw) * pipe.vae.config.scaling_factor
        noisy = kept**0.5 * latents + (1 - kept) ** 0.5 * torch.randn(latents.shape, generator=draw)
        net(noisy, timestep=torch.tensor([step]), **conditions(pipe, picture))
    return seen


def conditions(pipe: Any, picture: Image.Image) -> dict[str, Any]:
    kind, side = type(pipe).__name__, picture.size
    if kind == "DiTPipeline":
        return {"class_labels": torch.tensor([5])}
    if kind == "StableDiffusionImageVariationPipeline":
        return {"encoder_hidden_states": pipe._encode_image(picture, "cpu", 1, False)}
    told = pipe.encode_prompt("", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    if kind == "StableDiffusionPipeline":
        return {"encoder_hidden_states": told[0]}
    sizes = pipe._get_add_time_ids(side, (0, 0), side, torch.float32, 10)
    return {"encoder_hidden_states": told[0], "added_cond_kwargs": {"text_embeds": told[2], "time_ids": sizes}}


def by_rows(state: torch.Tensor) -> torch.Tensor:
    """[D, h, w] -> [h * w, D]; [L, D] -> 2 x 2 tokens side by side, channel by channel."""
    if state.ndim == 3:
        return torch.stack([state[:, row, column] for row in range(state.shape[1]) for column in range(state.shape[2])])
    side = int(len(state) ** 0.5)
    found = []
    for row in range(0, side, 2):
        for column in range(0, side, 2):
            first = row * side + column
            found.append(state[[first, first + 1, first + side, first + side + 1]].T.flatten())
    return torch.stack(found)


@pytest.mark.parametrize("name", PIPELINES)
def test_features_are_a_block_of_a_whole_pass(folders: dict[str, Path], name: str) -> None:
    """At the paper's layer and step, then at every layer with much noise; alone and in a batch."""
    pictures = [noise(32, number) for number in range(3)]
    encoder = loaded(folders[name])
    paper = 3 if name == "dit" else 1
    assert (encoder.plan.layer, encoder.plan.step, encoder.plan.size) == (paper, 1, 32)
    assert (encoder.plan.grid, encoder.plan.width) == ((4, 64) if name == "dit" else (16, 32))
    expected = [by_rows(read_by_hand(folders[name], picture, 1)[paper]) for picture in pictures]
    found = encoder.features(pictures)
    assert found.dtype == torch.float32 and torch.equal(found, encoder.features(pictures))
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(encoder.features(pictures[1:2])[0], expected[1], atol=1e-4, rtol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 0.1, "or every picture looks alike"
    for layer, state in enumerate(read_by_hand(folders[name], pictures[0], 700)):
        other = loaded(folders[name], layer=layer, step=700)
        assert other.plan.blocks == (3 if name == "dit" else 2)
        torch.testing.assert_close(other.features(pictures[:1])[0], by_rows(state), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_corner_that_changes_changes_its_own_patches_most(tmp_path: Path, name: str) -> None:
    """With a VAE that is as sure of its latents as trained ones are; else what it draws hides the corner."""
    folder = save_pipeline(tmp_path / name, name)
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    torch.nn.init.constant_(vae.quant_conv.bias[4:], -20)
    vae.save_pretrained(folder / "vae")
    encoder = loaded(folder, size=64, step=0)
    corners = [(top, left) for top in (0, 48) for left in (0, 48)]
    pictures = [Image.new("RGB", (64, 64)) for _ in range(5)]
    for picture, (top, left) in zip(pictures[1:], corners, strict=True):
        picture.paste((255, 255, 255), (left, top, left + 16, top + 16))
    grids = encoder.features(pictures).unflatten(1, (encoder.plan.grid,) * 2)
    changed = (grids[1:] - grids[:1]).norm(dim=-1)
    for moved, (top, left) in zip(changed, corners, strict=True):
        row, column = divmod(int(moved.argmax()), encoder.plan.grid)
        half = encoder.plan.grid // 2
        assert (row // half, column // half) == (top // 32, left // 32)


REAL: Mapping[str, tuple[dict[str, Any], int, tuple[int, int, int]]] = {  # the net, pixels; blocks, grid, width
    "sd": ({"cross_attention_dim": 768}, 768, (4, 24, 1280)),
    "sdxl": (
        {
            "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "sample_size": 128,
            "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }, 512, (3, 32, 1280),
    ),
    "dit": (
        {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28, "sample_size": 64}, 512, (28, 16, 4608),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_models_of_full_size_are_planned_without_weights(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    """Their grids and widths are those of the paper; files of weights are empty here."""
    net, size, (blocks, grid, width) = REAL[name]
    shutil.copytree(folders[name], folder := tmp_path / name)
    kind = diffusers.DiTTransformer2DModel if name == "dit" else diffusers.UNet2DConditionModel
    with torch.device("meta"):
        kind(**net).save_config(folder / ("transformer" if name == "dit" else "unet"))
        four = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        diffusers.AutoencoderKL(block_out_channels=(128, 256, 512, 512), **four).save_config(folder / "vae")
    for part, more in {"text_encoder": {"hidden_size": 768}, "text_encoder_2": {"hidden_size": 1280}}.items():
        if (folder / part).is_dir():
            hf.CLIPTextConfig(num_attention_heads=4, projection_dim=1280, **more).save_pretrained(folder / part)
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(b"")
    plan = plan_encoder("x", EncoderSettings(path=str(folder), size=size))
    assert (plan.blocks, plan.grid, plan.width) == (blocks, grid, width)
    with pytest.raises(ModelError, match="encoders.x: .* cannot be used as an encoder"):
        load_encoder(plan, "own", "cpu")


def test_settings_that_do_not_fit_are_one_sentence(folders: dict[str, Path]) -> None:
    def refused(message: str, name: str = "sd", **settings: Any) -> None:
        with pytest.raises(ConfigError, match=message):
            plan_encoder("x", EncoderSettings(path=str(folders[name]), **settings))

    refused("encoders.x.size=30 is cut into patches of 4 pixels; give a multiple of 4, two of them or more", size=30)
    refused("encoders.x.size=4 is cut into patches", size=4)
    refused("encoders.x.size=36 is cut into patches of 8 pixels", "dit", size=36)
    refused("encoders.x.step=1000 is outside the schedule of the checkpoint; give 0 to 999", step=1000)
    refused("encoders.x.step=-1 is outside", step=-1)
    refused("encoders.x.layer=3 does not exist: the encoder has 2 blocks, so layers 0 to 2, or -1 to -3 from", layer=3)
    refused("encoders.x.layer=-5 does not exist: the encoder has 3 blocks", "dit", layer=-5)


def index(value: Any) -> Callable[[Path], Any]:
    return lambda folder: (folder / "model_index.json").write_text(value)


def without(part: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / part).unlink() if (folder / part).is_file() else shutil.rmtree(folder / part)


def unet(**settings: Any) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        path = folder / "unet" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (index('{"_class_name": "StableDiffusion3Pipeline"}'), "StableDiffusion3Pipeline are not built .*one of: DiT"),
        (index("{}"), "cannot be used as an encoder"),
        (index("no JSON"), "cannot be used as an encoder"),
        (without("unet"), "lacks unet/config.json, which a StableDiffusionPipeline needs"),
        (without("scheduler/scheduler_config.json"), "lacks scheduler/scheduler_config.json"),
        (without("tokenizer"), "lacks tokenizer/tokenizer_config.json"),
        (without("vae/diffusion_pytorch_model.safetensors"), "vae has no weights"),
        (unet(cross_attention_dim=20), "cannot be used as an encoder"),
        (unet(in_channels=9), "cannot be used as an encoder"),
        (unet(down_block_types=["Nobodys", "DownBlock2D"]), "cannot be used as an encoder"),
        (unet(sample_size=None), "does not give its training size; set encoders.x.size"),
    ],
)  # fmt: skip
def test_pipelines_that_cannot_be_read_are_one_sentence(
    folders: dict[str, Path], tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    shutil.copytree(folders["sd"], folder := tmp_path / "sd")
    spoil(folder)
    with pytest.raises(MllmProbeError, match=message) as refusal:
        plan_encoder("x", EncoderSettings(path=str(folder)))
    assert "encoders.x" in str(refusal.value) and "\n" not in str(refusal.value)


def test_weights_that_are_missing_are_not_drawn_at_random(folders: dict[str, Path], tmp_path: Path) -> None:
    for part, file in (("unet", "diffusion_pytorch_model.safetensors"), ("text_encoder", "model.safetensors")):
        shutil.copytree(folders["sd"], folder := tmp_path / part)
        weights = load_file(folder / part / file)
        first = min(weights)
        del weights[first]
        save_file(weights, folder / part / file, {"format": "pt"})
        with pytest.raises(ModelError, match=rf"{part}: 1 weight of the model \({first}\) is not in the files"):
            loaded(folder)


def test_of_a_hub_only_the_weights_that_are_read_are_fetched(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the hub client's own filter; and its cache, with the small files alone, is not taken for the whole."""
    model, whole = "diffusion_pytorch_model", "v1-5-pruned.safetensors"
    needed = {f"unet/{model}.safetensors", f"vae/{model}.safetensors", "text_encoder/model.safetensors"}
    others = {whole, f"unet/{model}.fp16.safetensors", f"unet/{model}.non_ema.safetensors", f"unet/{model}.bin"}
    others |= {"safety_checker/model.safetensors", "text_encoder/model.fp16.safetensors"}
    allowed = checkpoint._tensors(folders["sd"])
    found = filter_repo_objects(needed | others, allow_patterns=allowed, ignore_patterns=list(checkpoint.VARIANTS))
    assert set(found) == needed
    place = tmp_path / "models--some--model"
    folder = place / "snapshots" / ("0a" * 20)
    shutil.copytree(folders["sd"], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(folder.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="some/model is on this machine without weights"):
        plan_encoder("x", EncoderSettings(hub_id="some/model"))
    for part in needed:
        shutil.copy(folders["sd"] / part, folder / part)
    assert plan_encoder("x", EncoderSettings(hub_id="some/model")).folder == folder


def test_without_diffusers_other_encoders_are_planned_and_it_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['diffusers'] = None\n"
        "from mllm_probe.cli import entry as cli; sys.exit(cli.main(sys.argv[1:]))"
    )  # fmt: skip
    command = ["vision", "score", "encoder=[mini,custom]", f"encoders.custom.path={folders['sd']}"]
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    message = "is a diffusion model, which needs diffusers; pip install 'mllm-probe[diffusion]'"
    assert f"encoders.custom: {folders['sd']} {message}" in " ".join(done.stderr.split())
    assert not list(tmp_path.rglob("vision.csv"))


def test_the_command_scores_them_alone_and_joined(probe: Run, folders: dict[str, Path], tmp_path: Path) -> None:
    clip, spair = save_clip(tmp_path / "clip"), write_spair(tmp_path / "spair")
    command = [
        "vision", "score", "encoder=[sd15,clip_l14]", f"encoders.sd15.path={folders['sd']}", "encoders.sd15.size=8",
        f"encoders.clip_l14.path={clip}", "representations=[sd15,sd15+clip_l14]", f"pairs.root={spair}",
        "score.measures=[c_pck]", "score.match=hard", "score.alphas=[0.3]", "score.draws=20", "dataset.pictures=10",
    ]  # fmt: skip
    for more in ([], ["score.micro_batch=3"], ["encoders.sd15.step=500"]):
        code, _, err = probe(*command, *more)
        assert code == 0, err
        assert "Warning" not in err
    tables = [load_rows(path, VisionScore) for path in sorted(tmp_path.glob("outputs/vision_score/*/*/vision.csv"))]
    table, batched, noisy = tables
    shapes = table.drop_duplicates("representation").set_index("representation")[["layer", "size", "grid", "width"]]
    assert shapes.loc["sd15"].tolist() == ["1", "8", 4, "32"]
    assert shapes.loc["sd15+clip_l14"].tolist() == ["1+2", "8+32", 4, "32+32"]
    assert batched.equals(table) and table.run[0] != noisy.run[0]
    encoders = [loaded(folders["sd"], size=8), loaded(clip)]
    found = [matched(encoders, pair) for pair in read_pairs(spair, "spair", "test")[0]]
    rows = table[(table.representation == "sd15+clip_l14") & (table.subset == "") & (table.over == "image")]
    assert rows.value.tolist() == [pytest.approx(pck(found, 0.3, "image"))] and 0 < rows.value.iloc[0] < 1


def matched(encoders: Sequence[Encoder], pair: Any) -> Any:
    unit = torch.nn.functional.normalize
    pictures = [open_rgb(side.path) for side in (pair.source, pair.target)]
    parts = [
        unit(one.features([letterbox(picture, one.plan.size) for picture in pictures]), dim=-1) for one in encoders
    ]
    return find_keypoints(*torch.cat(parts, dim=-1).numpy(), pair, hard_argmax)
