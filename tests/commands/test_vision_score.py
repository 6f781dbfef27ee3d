"""`vision score` from tiny checkpoints and drawn pictures to its tables, and what it reads of models."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mllm_probe.config.vision import LOG_ME_PUBLISHED, VISION_MEASURES, EncoderSettings, FitSettings
from mllm_probe.data.pictures import open_rgb
from mllm_probe.data.spair import read_pairs
from mllm_probe.errors import ConfigError, ModelError
from mllm_probe.files.readback import load_rows
from mllm_probe.geometry.row_checks import clip_outliers
from mllm_probe.geometry.similarity import between, similarity
from mllm_probe.models.encoders.by_kind import load_encoder, plan_encoder
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.records.samples import Collection, Picture
from mllm_probe.results.vision import VisionScore
from mllm_probe.vision.c_score import find_keypoints, hard_argmax, pck
from mllm_probe.vision.encoder_table import read_table
from mllm_probe.vision.frames import letterbox
from mllm_probe.vision.model_reads import caption_log_probabilities, caption_states, named_model, projected_tokens
from mllm_probe.vision.transferability import log_me
from tests.support.checkpoints import blueprint_of, save_llava
from tests.support.configs import composed
from tests.support.encoders import save_clip, save_dinov2, save_siglip, write_spair
from tests.support.families import save_paligemma
from tests.support.runs import REAL, Run, Silent

SPAIR = REAL / "spair_subset"


@pytest.fixture(scope="module")
def plain(checkpoint: Path) -> HFModel:
    return load_model(blueprint_of(checkpoint, chat="plain"), "cpu")


@pytest.fixture(scope="module")
def pictures(scenes: Collection) -> Sequence[Picture]:
    return scenes.pictures[:5]


@pytest.mark.parametrize("side", ["right", "left"])
def test_log_probabilities_are_minus_the_loss_of_transformers(
    checkpoint: Path, pictures: Sequence[Picture], side: str
) -> None:
    """One sample at a time, the picture's tokens and all before them masked: what stage 1 trains on."""
    model = load_model(blueprint_of(checkpoint, side, chat="plain"), "cpu")
    found = caption_log_probabilities(model, pictures, 3)
    assert len({len(one) for one in found}) > 1, "or padding is not tested"
    for picture, one in zip(pictures, found, strict=True):
        text = f"<image>{picture.captions[0]}\n"
        inputs = model._blueprint.processor(text=[text], images=[[open_rgb(picture.path)]], return_tensors="pt")
        ids = inputs["input_ids"]
        labels = ids.masked_fill(torch.arange(ids.shape[1]) <= (ids == 3).nonzero()[-1, 1], -100)
        with torch.no_grad():
            loss = model._model(**inputs, labels=labels).loss
        assert one.mean() == pytest.approx(-float(loss), abs=1e-5)
        assert len(one) == int((labels != -100).sum())


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of PaliGemma's processor
def test_models_whose_pictures_see_the_caption_have_no_likelihood(tmp_path: Path, pictures: Sequence[Picture]) -> None:
    model = load_model(blueprint_of(save_paligemma(tmp_path / "paligemma"), chat="plain"), "cpu")
    with pytest.raises(ModelError, match="sees a caption before it predicts it.*leave a_loglik out of score.measures"):
        caption_log_probabilities(model, pictures, 2)


def test_projected_tokens_are_what_the_language_model_gets(plain: HFModel, pictures: Sequence[Picture]) -> None:
    found = projected_tokens(plain, pictures, 2)
    images = [open_rgb(picture.path) for picture in pictures]
    pixels = plain._blueprint.processor.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = plain._model.model.get_image_features(pixels, return_dict=True).pooler_output
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=1e-5)


def test_caption_states_are_means_over_tokens_and_captions(plain: HFModel, pictures: Sequence[Picture]) -> None:
    found, site = caption_states(plain, pictures, -2, 4)
    assert str(site) == "lm.03" and found.shape == (5, 64)
    for row, picture in zip(found, pictures, strict=True):
        means = []
        for caption in picture.captions:
            ids = plain._blueprint.processor.tokenizer(caption, return_tensors="pt").input_ids
            with torch.no_grad():
                states = plain._model(input_ids=ids, output_hidden_states=True).hidden_states[-2]
            means.append(states[0, 1:].double().mean(dim=0).numpy())  # behind <s>
        np.testing.assert_allclose(row, np.mean(means, axis=0), atol=1e-5)
    with pytest.raises(ConfigError, match="score.text_layer=5 does not exist: the language model has 4 blocks"):
        caption_states(plain, pictures, 5, 4)


def test_a_model_is_named_by_folder_or_bundle_or_hub_id(checkpoint: Path) -> None:
    settings = composed(command="vision_score").model
    assert named_model(settings, str(checkpoint)).path == str(checkpoint)
    assert named_model(settings, "mini_base").bundled == "mini_base"
    assert named_model(settings, "owner/name").hub_id == "owner/name"
    with pytest.raises(ConfigError, match="mllms names ./owner, which is neither a folder nor a bundled model nor"):
        named_model(settings, "./owner")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("vision")
    other = save_llava(root / "other")
    return {
        "clip_l14": save_clip(root / "clip"),
        "dinov2_l": save_dinov2(root / "dinov2"),
        "siglip_b16": save_siglip(root / "siglip"),
        "spair": write_spair(root / "spair"),
        "one": checkpoint,
        "other": other,
    }


def arguments(places: dict[str, Path], *more: str) -> list[str]:
    names = ("clip_l14", "dinov2_l", "siglip_b16")
    return [
        "vision", "score", f"encoder=[{','.join(names)}]", *(f"encoders.{name}.path={places[name]}" for name in names),
        "encoders.dinov2_l.size=32", f"pairs.root={places['spair']}", "model=custom", f"model.path={places['one']}",
        "model.dtype=float32", "model.quantization=none", "data.n=40", "dataset.pictures=40", "score.draws=50",
        "score.permutations=20", *more,
    ]  # fmt: skip


JOINED = "representations=[clip_l14,dinov2_l,siglip_b16,clip_l14+dinov2_l]"


def test_the_command_from_checkpoints_to_its_tables(probe: Run, tmp_path: Path, places: dict[str, Path]) -> None:
    models = (f"+mllms.clip_l14={places['one']}", f"+mllms.siglip_b16={places['other']}")
    code, out, err = probe(*arguments(places, JOINED, *models, "score.match=hard", "score.alphas=[0.3,0.5]"))
    assert code == 0, err
    folder = next((tmp_path / "outputs" / "vision_score").glob("*/*"))
    table = load_rows(folder / "vision.csv", VisionScore)
    names = JOINED.partition("=")[2].strip("[]").split(",")
    assert list(table.representation.unique()) == names
    assert set(table.measure) == set(VISION_MEASURES) - {LOG_ME_PUBLISHED}, "that one only where it is named"
    shapes = table.drop_duplicates("representation").set_index("representation")[["layer", "size", "grid", "width"]]
    assert shapes.loc["clip_l14+dinov2_l"].tolist() == ["2+2", "32+32", 4, "32+32"]
    assert shapes.loc["siglip_b16"].tolist() == ["2", "48", 3, "32"]
    check_correspondence(table, places)
    check_pictures(table, places, tmp_path / "outputs")
    check_alignment(table)
    check_the_table_for_fit(pd.read_csv(folder / "representations.csv", index_col=0), table, tmp_path / "mine.csv")
    assert "clip_l14+dinov2_l" in out and "c_pck: % within 0.3" in out
    code, again, _ = probe("report", f"run={folder}")
    assert code == 0 and again == out


def check_correspondence(table: pd.DataFrame, places: dict[str, Path]) -> None:
    """By hand, with the two joined encoders alone; 4 pairs in all and 2 of each category."""
    plans = [plan_encoder(name, EncoderSettings(path=str(places[name]), size=32)) for name in ("clip_l14", "dinov2_l")]
    encoders = [load_encoder(plan, "own", "cpu") for plan in plans]
    pairs, _ = read_pairs(places["spair"], "spair", "test")
    found = []
    for pair in pairs:
        squares = [letterbox(open_rgb(side.path), 32) for side in (pair.source, pair.target)]
        parts = [torch.nn.functional.normalize(encoder.features(squares), dim=-1) for encoder in encoders]
        found.append(find_keypoints(*torch.cat(parts, dim=-1).numpy(), pair, hard_argmax))
    rows = table[(table.measure == "c_pck") & (table.representation == "clip_l14+dinov2_l")]
    assert len(rows) == 2 * 2 * 3 and set(rows.subset) == {"", "category=cat", "category=cow"}
    for row in rows.itertuples():
        own = [one for one in found if row.subset in ("", f"category={one.pair.category}")]
        assert row.value == pytest.approx(pck(own, row.alpha, row.over)) and row.low <= row.value <= row.high
        assert row.n == len(own) * (1 if row.over == "image" else 3) and row.n_images == (2 if row.subset else 4)
        assert (row.match, row.dataset, row.geometry, row.normalisation) == ("hard", "spair", "letterbox", "own")
    assert 0 < rows.value.min() < rows.value.max() < 1


def check_pictures(table: pd.DataFrame, places: dict[str, Path], outputs: Path) -> None:
    """CKA, neighbours and LogME of one encoder, from its features and the model's states."""
    from mllm_probe.data.coco import Selection
    from mllm_probe.data.scenes import Scenes
    from mllm_probe.files.digests import Digests

    scenes = Scenes(pictures=40).load(outputs, Selection(), Digests(outputs / "digests.json"))
    encoder = load_encoder(plan_encoder("x", EncoderSettings(path=str(places["clip_l14"]))), "own", "cpu")
    squares = [letterbox(open_rgb(picture.path), 32) for picture in scenes.pictures]
    vectors = encoder.features(squares).double().mean(dim=1).numpy()
    model = load_model(blueprint_of(places["one"], chat="plain"), "cpu")
    states, _ = caption_states(model, scenes.pictures, -2, 16)
    rows = table[table.representation == "clip_l14"].set_index("measure")
    for name in ("cka", "mutual_knn"):
        expected = between(similarity(name, 10), clip_outliers(vectors, 5.0), clip_outliers(states, 5.0))
        assert rows.value[name] == pytest.approx(expected, abs=0.011), "a neighbour more or less by rounding"
        assert rows.reference[name] == "lm.03" and rows.n[name] == 40 and rows.null_high[name] < 0.6
    assert rows.chance["mutual_knn"] == pytest.approx(10 / 39) and rows.chance["cka"] == 0
    present = np.array([[c in picture.categories for c in scenes.categories] for picture in scenes.pictures], float)
    present = present[:, (present.mean(axis=0) > 0) & (present.mean(axis=0) < 1)]
    expected = np.mean([one.value for one in log_me(vectors, present)])
    assert rows.value["log_me"] == pytest.approx(expected, rel=1e-4) and rows.n["log_me"] == present.shape[1]


def check_alignment(table: pd.DataFrame) -> None:
    """Both models are the same weights: each is the other's only reference, and they agree in everything."""
    rows = table[table.measure == "a_cos"]
    assert rows.reference.tolist() == ["mean", "siglip_b16", "mean", "clip_l14"]
    assert rows.value.to_numpy() == pytest.approx(1, abs=1e-5) and (rows.llm == ["llava"] * 2 + ["other"] * 2).all()
    likelihoods = table[table.measure == "a_loglik"]
    assert likelihoods.representation.tolist() == ["clip_l14", "siglip_b16"] and likelihoods.value.max() < -3
    assert (likelihoods.low < likelihoods.value).all() and (likelihoods.n == 40).all()


def check_the_table_for_fit(wide: pd.DataFrame, table: pd.DataFrame, mine: Path) -> None:
    assert wide.columns[:3].tolist() == ["c_pck030", "c_pck050", "cka"] and len(wide) == 4
    rows = table[(table.measure == "c_pck") & (table.subset == "") & (table.over == "image")]
    expected = rows[rows.alpha == 0.3].set_index("representation").value * 100
    pd.testing.assert_series_equal(wide.c_pck030, expected, check_names=False, rtol=1e-6)
    assert wide.a_loglik.notna().tolist() == [True, False, True, False]
    wide.assign(perf_vqa=[1, 2, 3, 4]).to_csv(mine)
    (benchmark,) = read_table(FitSettings(table=str(mine), a="cka", c="c_pck030")).benchmarks
    assert benchmark.name == "vqa" and benchmark.y.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(benchmark.scores, wide[["cka", "c_pck030"]])


def test_a_reference_that_is_named_is_compared_with_itself_too(
    probe: Run, tmp_path: Path, places: dict[str, Path]
) -> None:
    more = (f"+mllms.clip_l14={places['one']}", "score.references=[clip_l14]", "score.measures=[a_cos]")
    code, _, err = probe(*arguments(places, *more))
    assert code == 0, err
    (folder,) = (tmp_path / "outputs" / "vision_score").glob("*/*")
    rows = load_rows(folder / "vision.csv", VisionScore)
    assert rows.reference.tolist() == ["mean", "clip_l14"] and rows.value.tolist() == pytest.approx([1, 1], abs=1e-5)


def test_the_same_command_gives_the_same_bytes_and_a_setting_another_run(
    probe: Run, tmp_path: Path, places: dict[str, Path]
) -> None:
    for more in ("", "", "score.geometry=compat"):
        code, _, err = probe(*arguments(places, "score.measures=[c_pck]", *filter(None, [more])))
        assert code == 0, err
    one, two, other = (path.read_bytes() for path in sorted(tmp_path.glob("outputs/vision_score/*/*/vision.csv")))
    assert one == two and b"compat" in other and one.split(b"\n")[1][:16] != other.split(b"\n")[1][:16]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("encoders.clip_l14.layer=-9",), "encoders.clip_l14.layer=-9 does not exist: the encoder has 3 blocks"),
        (
            ("representations=[clip_l14+siglip_b16]",),
            "joins grids of different sizes (clip_l14 4 x 4, siglip_b16 3 x 3)",
        ),
        (("score.measures=[c_pk]",), "unknown measure 'c_pk'; did you mean 'c_pck'?"),
        (("score.measures=[a_loglik]",), "score.measures names a_loglik, which needs a multimodal model"),
        (("score.measures=[c_pck]", "pairs.root=null"), "names c_pck, which needs pictures with keypoints: pairs.root"),
        (("score.geometry=round",), "score.geometry=round is unknown; choose one of: compat, letterbox"),
        (("score.match=x",), "score.match=x is unknown; choose one of: compat, hard, soft"),
        (("score.normalisation=x",), "score.normalisation=x is unknown; choose one of: compat, own"),
        (("score.k=40",), "score.k=40 must be below the number of pictures, which is 40"),
        (("data.n=3",), "3 pictures are too few to compare encoders"),
        (("score.alphas=[0.1,0]",), "score.alphas=[0.1, 0.0] must hold at least one share above 0"),
        (("score.draws=0",), "score.draws=0 must be 1 to 1,000,000"),
        (("score.ci_level=1",), "score.ci_level=1.0 must be between 0 and 1"),
        (("score.clip=0",), "score.clip=0.0 must be above 0"),
        (("device=tpu",), "device=tpu is unknown"),
        (("+mllms.clip=x",), "mllms names x, which is neither a folder nor"),
        (
            ("+mllms.clip=mini",),
            "mllms has a model for clip, which is neither a representation nor in score.references",
        ),
        (("+mllms.clip_l14=no/body", "score.references=[]"), "score.references=[] compares with nothing"),
        (
            ("+mllms.clip_l14=no/body",),
            "mllms.clip_l14=no/body is not on this machine, and HF_HUB_OFFLINE is set; run `hf download no/body` where "
            "there is a network, or give a local folder with mllms.clip_l14=FOLDER",
        ),
        (("score.references=[clip_l14]",), "score.references names clip_l14, which has no model in mllms"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence(
    probe: Run, places: dict[str, Path], more: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllm_probe.models.encoders.by_kind.load_encoder", lambda *_: pytest.fail("loaded"))
    code, _, err = probe(*arguments(places, *more))
    assert code == 1 and message in err and "Traceback" not in err


def test_without_keypoints_or_models_the_rest_is_measured(probe: Run, tmp_path: Path, places: dict[str, Path]) -> None:
    code, _, err = probe(*arguments(places, "pairs.root=null"))
    assert code == 0 and "c_pck is left out; it needs pictures with keypoints" in err
    assert "a_cos is left out; it needs two multimodal models" in err
    (folder,) = (tmp_path / "outputs" / "vision_score").glob("*/*")
    assert set(load_rows(folder / "vision.csv", VisionScore).measure) == {"cka", "mutual_knn", "log_me", "h_score"}


@pytest.mark.realdata
@pytest.mark.skipif(not SPAIR.is_dir(), reason=f"{SPAIR} is absent; set MLLM_PROBE_REAL_DATA to the folder with it")
def test_real_pairs_end_to_end(tmp_path: Path, places: dict[str, Path]) -> None:
    from mllm_probe.commands.vision_score import vision_score
    from mllm_probe.files.paths import RunPaths

    overrides = [one for one in arguments(places, "score.measures=[c_pck]")[2:] if not one.startswith("pairs.root")]
    config = composed(*overrides, f"pairs.root={SPAIR}", f"paths.outputs={tmp_path}", command="vision_score")
    vision_score(config, RunPaths(tmp_path), Silent())
    rows = load_rows(tmp_path / "vision.csv", VisionScore)
    whole = rows[(rows.subset == "") & (rows.alpha == 0.1)]
    assert whole.n.tolist() == [24, 225] * 3 and (whole.n_images == 21).all() and whole.value.between(0, 0.2).all()
    assert set(rows.subset) == {"", "category=cat", "category=cow", "category=dog", "category=horse"}
