"""Every model family goes the whole way: layers, spans, weights in three precisions, cache and sweep.

The oracles know nothing of taps and spans: blocks called by hand one after the other, constants planted at tokens found
by decoding. `docs/families.md` must say what is found here; MLLM_PROBE_WRITE_DOCS=1 writes its table anew.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mllm_probe.errors import ModelError
from mllm_probe.extraction.proof import prove
from mllm_probe.extraction.taps import read_states
from mllm_probe.interventions.proof import disproved, last_states
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.models.loading.device import quantized_modules
from mllm_probe.models.prompts.prompt import Layout
from mllm_probe.models.tails.engine import Tails
from mllm_probe.models.tails.plain import Plain
from mllm_probe.records.interventions import Intervention
from mllm_probe.records.samples import Picture, Sample
from mllm_probe.records.sites import Key, Site
from mllm_probe.results.score_file import load_scores
from tests.support.checkpoints import blueprint_of
from tests.support.families_more import BUILDERS, LLAVAS, SETTINGS, TOWERS
from tests.support.naive_pass import DOCS, by_hand, close, first, lm_blocks, read
from tests.support.runs import QUICK, Run

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of PaliGemma's processor
TEXT = "Is there a zebra in this image? Yes or no"
MARKS = {"object": (TEXT.index("zebra"), TEXT.index("zebra") + 5)}
PLANTED = 1234.5
OPTIONS = ("llava", "llava_next", "qwen2_5_vl", "kosmos2", "smolvlm")  # also run under their own names
M_ROPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SCALED = ("gemma3", "paligemma", "paligemma2")  # embeddings times the root of their width
POSITIONED = ("blip2", "kosmos2")  # positions are added to embeddings
SEES_THE_TEXT = ("paligemma", "paligemma2", "instructblip")  # at picture tokens; the last by its Q-Former
SEES_AHEAD = ("gemma3", "paligemma", "paligemma2")  # picture tokens see later ones
WHOLE = ("blip2", "gemma3", "instructblip", "kosmos2", "mllama", "paligemma", "paligemma2")  # see docs/intervene.md
DEEPSTACK = ("qwen3_vl",)  # adds picture features to the states between its first blocks


@pytest.fixture(scope="module", params=sorted(BUILDERS))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, BUILDERS[request.param](tmp_path_factory.mktemp("family") / request.param)


@pytest.fixture(scope="module")
def model(family: tuple[str, Path]) -> HFModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return load_model(blueprint_of(family[1], **SETTINGS.get(family[0], {})), "cpu")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """The same question about two pictures of different shape, the second in more words."""
    place, rng = tmp_path_factory.mktemp("pair"), np.random.default_rng(0)
    samples = []
    for i, (width, height) in enumerate(((64, 64), (40, 90))):
        path = place / f"{width}.png"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
        text = TEXT + " in many, many more words than the first" * i
        samples.append(Sample.of([Picture(path.stem, path, path.stem)], text, MARKS))
    return samples


def picture_tokens(model: HFModel, inputs: Any, row: int = 0) -> list[int]:
    """By their id, or by the processor's own mask where ids do not tell."""
    config = model._blueprint.config
    image = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
    where = inputs["input_ids"][row] == image if image else inputs["image_embeds_position_mask"][row] == 1
    return where.nonzero()[:, 0].tolist()


@torch.inference_mode()
def test_every_layer_equals_the_blocks_called_by_hand(
    family: tuple[str, Path], model: HFModel, pair: list[Sample]
) -> None:
    inputs = model._blueprint.process(pair[:1])
    states, changes, last = by_hand(model, inputs)
    assert any(changes) == (family[0] in DEEPSTACK)
    found = [] if model.anatomy.crossed else picture_tokens(model, inputs)
    layers = range(len(states))
    got = read(
        model, pair[:1], *(f"lm.{i:02d}@{p}" for i in layers for p in ("last", *(["mean_image"] if found else [])))
    )
    for i in layers:
        assert close(got[f"lm.{i:02d}@last"][0], states[i][-1]), i
        if found:
            assert close(got[f"lm.{i:02d}@mean_image"][0], states[i][found].mean(dim=0)), i
    norm = read(model, pair[:1], f"lm.{layers[-1]:02d}.norm@last")
    post = norm[f"lm.{layers[-1]:02d}.norm@last"][0]
    if last.shape[-1] != len(post):  # some models have no body without the output head
        post = torch.nn.functional.linear(post, model._model.get_output_embeddings().weight)
    assert close(post, last[-1]), "the model's own last state is post-norm"


@torch.inference_mode()
def test_what_enters_the_first_block_is_the_embedding(
    family: tuple[str, Path], model: HFModel, pair: list[Sample]
) -> None:
    """Times the root of the width in Gemma's models; BLIP-2's OPT and Kosmos-2 add positions to it."""
    token = model._blueprint.process(pair[:1])["input_ids"][0, -1]
    row = model._model.get_input_embeddings().weight[token]
    factor = len(row) ** 0.5 if family[0] in SCALED else 1.0
    assert close(read(model, pair[:1], "lm.00@last")["lm.00@last"][0], factor * row) != (family[0] in POSITIONED)


def test_who_sees_the_text_behind_the_picture(family: tuple[str, Path], model: HFModel, pair: list[Sample]) -> None:
    if model.anatomy.crossed:
        pytest.skip("no token of its prompts stands for a picture")
    other = replace(pair[0], uid="other", text=f"{pair[0].text} Or is it not?")
    one, two = (read(model, [sample], "lm.03@mean_image")["lm.03@mean_image"][0] for sample in (pair[0], other))
    assert close(one, two) != (family[0] in SEES_THE_TEXT)


@torch.inference_mode()
def test_which_picture_tokens_see_later_ones(family: tuple[str, Path], model: HFModel, pair: list[Sample]) -> None:
    """A constant planted at the last picture token behind block 2 changes the first one behind block 3."""
    inputs = model._blueprint.process(pair[:1])
    places, found = [] if model.anatomy.crossed else picture_tokens(model, inputs), []
    if not places:
        pytest.skip("no token of its prompts stands for a feature of the picture")
    handle = lm_blocks(model)[2].register_forward_hook(lambda _m, _a, out: found.append(first(out)[0, places[0]]))
    try:
        model._model.base_model(**inputs, use_cache=False)
        with planted(model, 0, places[-1]):
            model._model.base_model(**inputs, use_cache=False)
    finally:
        handle.remove()
    assert close(*found) != (family[0] in SEES_AHEAD)


@torch.inference_mode()
def test_features_that_are_added_between_blocks_are_not_in_the_site(
    family: tuple[str, Path], model: HFModel, pair: list[Sample]
) -> None:
    """lm.01 is what block 1 returned. What block 2 receives is that too, but at picture tokens under DeepStack."""
    inputs, received = model._blueprint.process(pair[:1]), []
    handle = lm_blocks(model)[1].register_forward_pre_hook(
        lambda _m, args, more: received.append(args[0] if args else more["hidden_states"]), with_kwargs=True
    )
    names = ("lm.01@last", *(() if model.anatomy.crossed else ("lm.01@mean_image",)))
    try:
        model._model.base_model(**inputs, use_cache=False)
        got = read(model, pair[:1], *names)
    finally:
        handle.remove()
    assert close(got["lm.01@last"][0], received[0][0, -1])
    if not model.anatomy.crossed:
        there = received[0][0, picture_tokens(model, inputs)].mean(dim=0)
        assert close(got["lm.01@mean_image"][0], there) != (family[0] in DEEPSTACK)


def test_positions_in_three_axes_and_merged_patches(
    family: tuple[str, Path], model: HFModel, pair: list[Sample]
) -> None:
    """Qwen: text behind a picture goes on at its longer side, not at its number of tokens; a picture is two equal
    frames, and a picture token stands for 2 x 2 patches of them."""
    inputs = model._blueprint.process(pair[:1])
    positions = model.rotary(inputs)
    assert (len(positions) > 1) == (family[0] in M_ROPE)
    if family[0] in M_ROPE:
        places = picture_tokens(model, inputs)
        (grid,) = inputs["image_grid_thw"].tolist()
        assert (positions[-3:, 0, -1] == positions[-1, 0, -1]).all(), "text has one position on all axes"
        gone = positions[-1, 0, places[-1] + 1] - positions[-1, 0, places[0] - 1]
        assert gone == max(grid[1:]) // 2 + 1 < len(places) + 1
        assert grid[0] * grid[1] * grid[2] == 4 * len(places)
        frames = inputs["pixel_values"].reshape(len(inputs["pixel_values"]), 3, 2, -1)
        assert torch.equal(frames[:, :, 0], frames[:, :, 1])


def test_what_is_inside_a_block_adds_up(model: HFModel, pair: list[Sample]) -> None:
    """A block returns what it received, plus its attention, plus its mlp, but where norms stand behind these."""
    if set(model.anatomy.inside["lm"]) != {"attn", "mlp"}:
        pytest.skip("its blocks have no attention and mlp of their own")
    names = [f"lm.{place}@last" for place in ("02", "03", "03.attn", "03.mlp")]
    got = read(model, pair[:1], *names)
    before, after, attn, mlp = (got[name][0] for name in names)
    behind = any("post_feedforward" in name for name, _ in lm_blocks(model)[2].named_children())
    assert close(before + attn + mlp, after) != behind


def known_tokens(model: HFModel, sample: Sample, row: int, batch: Sequence[Sample]) -> dict[str, int]:
    """Where the words are, found by decoding ever longer stretches of the ids: no offsets, no spans."""
    inputs = model._blueprint.process(batch)
    ids, real = inputs["input_ids"][row].tolist(), inputs["attention_mask"][row].nonzero()[:, 0].tolist()
    decode = model._blueprint.processor.tokenizer.decode

    def ends(words: str) -> list[int]:
        return [i for i in real if decode(ids[real[0] : i + 1]).rstrip().endswith(words)]

    places = {"last": real[-1], "mark:object": ends("zebra")[0], "before:object": ends(" there a")[-1]}
    pictures = [i for i in picture_tokens(model, inputs, row) if i in real]
    return {**places, **({"last_image": pictures[-1]} if pictures else {})}


@contextmanager
def planted(model: HFModel, row: int, token: int) -> Iterator[None]:
    """Overwrite one token's state behind block 2 with a constant; the taps register later and see it."""

    def plant(_module: torch.nn.Module, _args: Any, out: Any) -> Any:
        changed = first(out).clone()
        changed[row, token] = PLANTED
        return (changed, *out[1:]) if isinstance(out, tuple) else changed

    handle = lm_blocks(model)[1].register_forward_hook(plant)
    try:
        yield
    finally:
        handle.remove()


def check_spans(model: HFModel, pair: Sequence[Sample]) -> None:
    for batch in (pair[:1], pair, pair[::-1]):
        row = batch.index(pair[0])
        for position, token in known_tokens(model, pair[0], row, batch).items():
            name = f"lm.02@{position}"
            with planted(model, row, token):
                assert bool((read(model, batch, name)[name][row] == PLANTED).all()), (position, "is elsewhere")
            with planted(model, row, token - 1):
                assert not bool((read(model, batch, name)[name][row] == PLANTED).any()), (
                    position,
                    "is one too far left",
                )


def test_spans_hold_a_planted_constant(model: HFModel, pair: list[Sample]) -> None:
    check_spans(model, pair)


def test_a_span_one_token_off_is_seen(model: HFModel, pair: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Layout.rows
    monkeypatch.setattr(Layout, "rows", lambda self, position: [[t - 1 for t in row] for row in rows(self, position)])
    with pytest.raises(AssertionError, match="is elsewhere"):
        check_spans(model, pair)


@pytest.mark.parametrize("change", [-1, 1])
def test_picture_tokens_are_as_many_as_features(model: HFModel, pair: list[Sample], change: int) -> None:
    """One place for a feature too few or too many in the expanded ids is an error with the model and both counts."""
    inputs = dict(model._blueprint.process(pair[:1]))
    found = [] if model.anatomy.crossed else picture_tokens(model, inputs)
    if not found:
        pytest.skip("no token of its prompts stands for a feature of the picture")
    length = inputs["input_ids"].shape[1]
    order = sorted([*range(length), found[0]]) if change > 0 else [i for i in range(length) if i != found[0]]
    wrong = {
        name: value[:, order] if value.dim() > 1 and value.shape[1] == length and name != "pixel_values" else value
        for name, value in inputs.items()
    }
    key = [Key.parse("lm.04@last")]
    batch = replace(model.collate(pair[:1], key), inputs=wrong)
    with pytest.raises(ModelError) as error:
        read_states(model, batch, key, torch.float32)
    counts = {int(number) for number in re.findall(r"\b\d+\b", str(error.value))}
    assert type(model._model).__name__ in str(error.value) and len(found) + change in counts and len(counts) == 2


def test_bfloat16_and_nf4_are_read(family: tuple[str, Path], pair: list[Sample]) -> None:
    for settings in ({"dtype": "bfloat16"}, {"dtype": "bfloat16", "quantization": "nf4"}):
        loaded = load_model(blueprint_of(family[1], **settings, **SETTINGS.get(family[0], {})), "cpu")
        (states,) = read(loaded, pair, "lm.04@last").values()
        assert states.shape == (2, 64) and bool(torch.isfinite(states).all())
        inside = [
            name
            for name in quantized_modules(loaded._model)
            if name.startswith(loaded._blueprint.structure.blocks["lm"])
        ]
        assert len(inside) == len(quantized_modules(loaded._model))
        assert bool(inside) == ("quantization" in settings)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_what_is_stored_in_few_bits_fits_its_config(family: tuple[str, Path], tmp_path: Path, kind: str) -> None:
    """The shapes in the heads of the files are those of packed matrices; of plain files they are read by all tests."""
    settings = {"dtype": "bfloat16", "quantization": kind, **SETTINGS.get(family[0], {})}
    loaded = load_model(blueprint_of(family[1], **settings), "cpu")
    shutil.copytree(family[1], tmp_path / "stored", ignore=shutil.ignore_patterns("*.safetensors"))
    loaded.network.save_pretrained(tmp_path / "stored")
    blueprint_of(tmp_path / "stored", **settings)
    told = json.loads((tmp_path / "stored" / "config.json").read_text())
    (told.get("text_config") or told)["hidden_size"] = 32
    (tmp_path / "stored" / "config.json").write_text(json.dumps(told))
    with pytest.raises(ModelError):
        blueprint_of(tmp_path / "stored", **settings)


def test_the_whole_way_to_scores(probe: Run, family: tuple[str, Path], tmp_path: Path) -> None:
    more = (f"model.{name}={value}" for name, value in SETTINGS.get(family[0], {}).items())
    args = (
        *more,
        "model=custom",
        f"model.path={family[1]}",
        "model.dtype=float32",
        "sweep.permutations=50",
    )
    small = ("experiment=smoke", "layers=all", "data.n=30", "dataset.pictures=30", "sweep.draws=50", "guards=note")
    code, _, err = probe("run", *args, *small, "layers.stride=2", "extract.positions=[last,mean_image]")
    assert code == 0, err
    table = load_scores(next((tmp_path / "outputs" / "run").glob("*/*")) / "scores.csv")
    anatomy = blueprint_of(family[1], **SETTINGS.get(family[0], {})).anatomy
    assert set(table.tower.dropna()) == set(anatomy.towers)
    assert ("mean_image" in set(table[table.tower == "lm"].position)) != anatomy.crossed
    assert table[(table.site != "") & (table.metric == "accuracy")].value.between(0, 1).all()


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_takes_a_folder(probe: Run, option: str, tmp_path: Path) -> None:
    """model=OPTION model.path=FOLDER: the settings of an option for one's own files."""
    folder = BUILDERS[option](tmp_path / "mine")
    args = (f"model={option}", f"model.path={folder}", "model.dtype=float32", "layers=every4", "guards=note", *QUICK)
    args += ("sweep.seeds=[0]", "sweep.permutations=50", "controls=none")
    code, _, err = probe("run", *args)
    assert code == 0, err
    assert "loading mine (nf4) on cpu" in err
    table = load_scores(next((tmp_path / "outputs" / "run").glob("*/*")) / "scores.csv")
    assert set(table.model) == {"mine"} and {"lm.00", "lm.04"} <= set(table.site)


@pytest.mark.parametrize("name", sorted(LLAVAS))
def test_another_tower_in_a_llava(name: str, pair: list[Sample], tmp_path: Path) -> None:
    """Class tokens, registers and a token of distillation, or none: what is counted and where spans are; with the
    strategy `default` all but the first of them are picture tokens of the language model."""
    model = load_model(blueprint_of(LLAVAS[name](tmp_path / name)), "cpu")
    _, leading, strategy = TOWERS[name.removeprefix("llava_")]
    assert model._scale().tokens["vision"] == leading + 16 and model._scale().leading == leading
    assert len(picture_tokens(model, model._blueprint.process(pair[:1]))) == 16 + leading - (strategy == "default")
    check_spans(model, pair)
    assert not prove(model, pair, [Key.parse("lm.04@last")], 300).why


def test_a_llava_with_registers_goes_the_whole_way(probe: Run, tmp_path: Path) -> None:
    folder = LLAVAS["llava_dinov2_with_registers"](tmp_path / "mine")
    args = ("model=custom", f"model.path={folder}", "model.dtype=float32", "layers=every4", "guards=note", *QUICK)
    code, _, err = probe("run", *args, "sweep.seeds=[0]", "sweep.permutations=50", "controls=none")
    assert code == 0, err
    table = load_scores(next((tmp_path / "outputs" / "run").glob("*/*")) / "scores.csv")
    assert set(table.tower.dropna()) == {"vision", "connector", "lm"}


def test_interventions_take_tails_or_whole_prompts(
    family: tuple[str, Path], model: HFModel, pair: list[Sample]
) -> None:
    """Asked of the loaded model; what cannot be done is refused by name."""
    blueprint, top = model._blueprint, model.anatomy.blocks["lm"]
    words = blueprint.answers("answer:Yes/No")
    tails, plain = Tails(model, blueprint, words, "cpu"), Plain(model, blueprint, words)
    crossed = "crossed" if model.anatomy.crossed else ""
    cut = Intervention("cut", "last", source="statement", window=(1, top))
    if eager := SETTINGS.get(family[0], {}).get("attn") == "eager":
        with pytest.raises(ModelError, match="model.attn=eager cannot be masked"):
            plain.outcomes(pair, [cut])
    found = crossed or model.unshared(300) or eager or disproved(tails, plain, pair, "float32")
    assert bool(found) == (family[0] in WHOLE), found
    if not eager:
        undisturbed, without = last_states(plain, pair, [cut])
        assert not close(undisturbed, without)
    if family[0] in DEEPSTACK:
        low = Intervention("add", "image", Site("lm", 2), payload=torch.ones(64))
        with pytest.raises(ModelError, match=r"states of picture tokens can be changed from lm.03 on"):
            tails.outcomes(pair, [low])


def line(name: str, model: HFModel, pair: list[Sample]) -> str:
    """One row of the table in docs/families.md, without its remark."""
    anatomy, lm = model.anatomy, model._blueprint.structure.blocks["lm"]
    parts = {tower: f" ({', '.join(found)})" for tower, found in anatomy.inside.items() if found}
    sites = ", ".join(tower + parts.get(tower, "") for tower in anatomy.towers)
    counts = " / ".join(str(len(picture_tokens(model, model._blueprint.process([sample])))) for sample in pair)
    heads = "plain" if prove(model, pair, [Key.parse("lm.04@last")], 300).why else "shared"
    linear = [n for n, part in model._model.named_modules() if n.startswith(lm) and isinstance(part, torch.nn.Linear)]
    return f"| `{name}` | {heads} | {sites} | {counts} | {', '.join(sorted({n.rpartition('.')[2] for n in linear}))} |"


def test_the_documentation_says_what_was_found(family: tuple[str, Path], model: HFModel, pair: list[Sample]) -> None:
    wanted, lines = line(family[0], model, pair), DOCS.read_text().splitlines()
    place = next((i for i, text in enumerate(lines) if text.startswith(f"| `{family[0]}` |")), None)
    assert place is not None, f"docs/families.md lacks a row for {family[0]}"
    if os.environ.get("MLLM_PROBE_WRITE_DOCS"):
        remark = lines[place].rsplit(" | ", 1)[1]
        lines[place] = f"{wanted} {remark}"
        DOCS.write_text("\n".join(lines) + "\n")
    assert lines[place].startswith(wanted), wanted
