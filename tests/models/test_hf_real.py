"""`model=smol_dino`, of trained weights: towers, spans, precisions, statistics, kills; if `make real` has made it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from get_small_model import IMAGE, MODELS, cache_folder
from PIL import Image

from mllm_probe.data.drawing import draw, random_scene
from mllm_probe.geometry.row_checks import clip_outliers, standardised
from mllm_probe.geometry.similarity import between, similarity
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.models.loading.device import quantized_modules
from mllm_probe.records.samples import Picture, Sample
from mllm_probe.tasks.entailment import Entailment
from tests.support.checkpoints import blueprint_of
from tests.support.killed import cache, finish, shards, start
from tests.support.naive_pass import by_hand, close, read
from tests.support.runs import Run

FOLDER = cache_folder() / MODELS[-1]
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not FOLDER.is_dir(), reason=f"no {FOLDER}; `make real` makes it where pip's index can be reached"
    ),
]
CAPTIONS = ("A man riding a wave on top of a surfboard.", "Two dogs.", "A red bus is parked beside the road")
TEMPLATE = Entailment().template
ANSWERS = ("Yes", "No")


@pytest.fixture(scope="module")
def model() -> HFModel:
    return load_model(blueprint_of(FOLDER, quantization="none"), "cpu")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Statements about twelve drawn pictures of several shapes."""
    from random import Random

    place, found, rng = tmp_path_factory.mktemp("drawn"), [], Random(0)
    for i in range(12):
        path = place / f"{i}.png"
        draw(random_scene(rng)).resize((90 + 40 * i, 120), Image.Resampling.BICUBIC).save(path)
        text = TEMPLATE.replace("{caption}", CAPTIONS[i % 3].rstrip("."))
        start = text.index(CAPTIONS[i % 3].rstrip("."))
        marks = {"caption": (start, start + len(CAPTIONS[i % 3].rstrip(".")))}
        found.append(Sample.of([Picture(path.stem, path, path.stem)], text, marks))
    return found


def test_the_towers_are_read(model: HFModel) -> None:
    anatomy = model.anatomy
    assert (anatomy.blocks["vision"], anatomy.widths["vision"]) == (12, 384)
    assert (anatomy.blocks["lm"], anatomy.widths["lm"]) == (30, 576)
    assert anatomy.causal and anatomy.max_tokens == 8192
    config = model._blueprint.config
    assert config.vision_feature_layer == 10 and config.vision_feature_select_strategy == "default"


def test_spans_are_the_words_they_name(model: HFModel, samples: Sequence[Sample]) -> None:
    """By decoding what stands there; 64 tokens are the picture's, and its class token is none of them."""
    blueprint = model._blueprint
    tokenizer = blueprint.processor.tokenizer
    inputs = blueprint.process(samples[:3])
    for sample, layout in zip(samples, blueprint.layouts(samples[:3], inputs), strict=False):
        start, stop = sample.marks["caption"]
        span = layout.rows("tokens:caption")
        assert tokenizer.decode([layout.ids[row] for (row,) in span]).strip() == sample.text[start:stop]
        assert [layout.ids[row] for row in layout.rows("mean_image")[0]] == [
            tokenizer.convert_tokens_to_ids(IMAGE)
        ] * 64
        assert tokenizer.decode(layout.ids).endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert layout.rows("last") == [[len(layout.ids) - 1]]


@torch.inference_mode()
def test_states_are_those_of_transformers(model: HFModel, samples: Sequence[Sample]) -> None:
    """Layer by layer, alone and packed with other statements; also what the connector reads and writes."""
    inputs = model._blueprint.process(samples[:1])
    states, _, last = by_hand(model, inputs)
    own = model._model(**inputs, output_hidden_states=True).hidden_states
    names = [f"lm.{layer:02d}@last" for layer in range(31)]
    got = read(model, samples[:1], *names, "lm.30.norm@last", *(f"vision.{k:02d}@mean_image" for k in (0, 10, 12)))
    for layer in range(31):
        assert close(got[names[layer]][0], states[layer][-1]), layer
        if layer < 30:
            assert close(got[names[layer]][0], own[layer][0, -1]), layer
    assert close(got["lm.30.norm@last"][0], own[30][0, -1]) and close(got["lm.30.norm@last"][0], last[-1])
    tower = model._model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
    for k in (0, 10, 12):
        assert close(got[f"vision.{k:02d}@mean_image"][0], tower[k][0, 1:].mean(dim=0)), k


def test_nf4_keeps_what_the_weights_say(model: HFModel, samples: Sequence[Sample]) -> None:
    """The real path: every matrix of the language model is quantised, and states stay near those of float32."""
    nf4 = load_model(blueprint_of(FOLDER, quantization="nf4"), "cpu")
    assert len(quantized_modules(nf4._model)) == 30 * 7
    names = [f"lm.{layer:02d}@last" for layer in (1, 10, 20, 30)]
    exact, rounded = (read(one, samples, *names) for one in (model, nf4))
    for name in names:
        assert bool(rounded[name].isfinite().all())
        assert float(torch.cosine_similarity(exact[name], rounded[name]).min()) > 0.8, name
        assert not torch.equal(exact[name], rounded[name])


def test_statistics_stand_massive_activations(model: HFModel, samples: Sequence[Sample]) -> None:
    """A few dimensions are hundreds of times as large as the middle one, in every layer but the first and the last; no
    value is lost in float16, and cut or standardised they do not decide which layers are alike."""
    names = [f"lm.{layer:02d}@mean_all" for layer in range(1, 31)]
    rows = {name: value.double().numpy() for name, value in read(model, samples, *names).items()}
    sizes = [np.abs(values).mean(axis=0) for values in rows.values()]
    assert max(size.max() / np.median(size) for size in sizes) > 100, "these are what the test is about"
    for name, values in rows.items():
        assert np.isfinite(values).all() and np.isfinite(values.astype(np.float16)).all(), name
        largest = np.argsort(np.abs(values).mean(axis=0))[-3:]
        others = np.delete(values, largest, axis=1)
        for measure in ("cka", "mutual_knn"):
            compared = similarity(measure, k=3)
            whole, without = standardised(values), standardised(others)
            assert between(compared, whole, without) > 0.9, (name, measure)
        assert between(similarity("cka"), clip_outliers(values, 5.0), clip_outliers(others, 5.0)) > 0.7, name


def test_a_killed_extraction_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = ("layers.range=[0,30]", "layers.stride=15", "layers.towers=[lm]", "model.quantization=none")
    small = (*layers, "data.n=8", "dataset.pictures=8", "splits.blocks=2")
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    assert finish(start(whole, FOLDER, *small))[0] == 0
    process = start(killed, FOLDER, *small)
    while process.poll() is None and not shards(killed):
        pass
    process.kill()
    process.communicate()
    code, err = finish(start(killed, FOLDER, *small))
    assert code == 0, err
    first, second = cache(whole), cache(killed)
    tensors = [name for name in first if name.endswith(".safetensors")]
    assert tensors and all(first[name] == second[name] for name in tensors)


def test_the_command_answers_about_drawn_pictures(probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of scenes it was never shown it need not know anything; the way from words to a report must hold."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(FOLDER.parent.parent))
    small = ("data.n=30", "dataset.pictures=30", "sweep.draws=50", "experiment=smoke")
    code, out, err = probe(
        "run", f"model={MODELS[-1]}", "layers.towers=[lm]", "layers.range=[0,30]", "layers.stride=10", *small
    )
    assert code == 0, err
    (folder,) = (tmp_path / "outputs" / "run").glob("*/*")
    table = pd.read_csv(folder / "scores.csv")
    assert {"lm.00", "lm.10", "lm.20", "lm.30"} <= set(table.site) and MODELS[-1] in out
