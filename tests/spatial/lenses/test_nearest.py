"""The words of a whole command's states: planted ones, and the index of text states, against transformers' own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mllm_probe.config.lens import LensConfig
from mllm_probe.errors import ConfigError, DataError
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.experiment.fill import fill_all
from mllm_probe.experiment.prepare import prepare
from mllm_probe.files.paths import RunPaths
from mllm_probe.models.hf import load_model
from mllm_probe.models.vocabulary import Vocabulary
from mllm_probe.records.sites import Site
from mllm_probe.spatial.lenses.judged import Judged
from mllm_probe.spatial.lenses.nearest import Reading, Request, named_field, shown_tokens
from mllm_probe.spatial.lenses.text_index import AT, Index, Texts, read_by
from tests.spatial.lenses.test_judged import BLANK, row
from tests.support.configs import composed
from tests.support.runs import Silent

EVERY = ["logit", "embedding", "latent"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> LensConfig:
    outputs = tmp_path_factory.mktemp("lens") / "outputs"
    words = (
        "dataset.pictures=60",
        "layers.stride=6",
        "controls=none",
        f"paths.outputs={outputs}",
    )
    return composed(*words, "lens=[logit,embedding,latent]", "model.quantization=none", command="lens")


@pytest.fixture(scope="module")
def experiment(config: LensConfig) -> Experiment:
    folder = Path(config.paths.outputs).parent / "job"
    folder.mkdir()
    return prepare(config, RunPaths(folder), Silent(), picking=True)


@pytest.fixture(scope="module")
def texts(config: LensConfig, experiment: Experiment) -> Texts:
    found = Texts.of(experiment, 0)
    fill_all([experiment, found.side(experiment)], [config, config], Silent())
    return found


@pytest.fixture(scope="module")
def reading(config: LensConfig, experiment: Experiment, texts: Texts) -> Reading:
    field, names, spelled, _ = named_field(experiment)
    shown = shown_tokens(experiment, field, 2)
    return Reading.opened(Request(config, field, names, spelled, texts, "run", shown), experiment, Silent())


def test_states_that_are_a_words_own_row_are_local_everywhere(experiment: Experiment) -> None:
    """Planted: on every object the row by which the model reads the first word of its category."""
    field, names, _, said = named_field(experiment)
    assert said is None
    words = Vocabulary(load_model(experiment.blueprint, "cpu"))
    tokenizer, rows = experiment.blueprint.processor.tokenizer, words._read.detach()
    on = field.inside.any(1)
    states = torch.randn(len(on), rows.shape[1])
    for t in np.flatnonzero(on):
        colour = field.categories[field.inside[t].argmax()].split()[0]
        (token,) = tokenizer.encode(f" {colour}", add_special_tokens=False)
        states[t] = 3 * rows[token]
    ids = words.cosines(states).topk(5, dim=1).indices.numpy()
    assert row(list(Judged(field, names).rows(ids, BLANK)), "local").value == 1


def test_every_token_of_all_captions_is_in_the_index_once(experiment: Experiment, texts: Texts) -> None:
    tokenizer = experiment.blueprint.processor.tokenizer
    spoken = {text for picture in experiment.collection.pictures for text in picture.captions}
    every = {token for text in spoken for token in tokenizer.encode(f"USER: {text}", add_special_tokens=False)}
    assert len(set(texts.ids.tolist())) == len(texts.ids)
    assert set(texts.ids.tolist()) <= every and len(texts.ids) > 20
    assert len(texts.samples) <= len(texts.ids)
    for token, (sample, place) in zip(texts.ids.tolist(), texts.places.tolist(), strict=True):
        row_of = list(_text_tokens(experiment, texts.samples[sample].text))
        assert row_of[place] == token


def _text_tokens(experiment: Experiment, text: str) -> list[int]:
    """Ids of the tokens that overlap the text in its prompt, by the tokenizer's own offsets."""
    prompt = f"USER: {text} ASSISTANT:"
    found = experiment.blueprint.processor.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    start, stop = 6, 6 + len(text)
    spans = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return [token for token, (a, b) in spans if a < stop and b > start and b > a]


@torch.inference_mode()
def test_a_text_state_finds_itself_and_is_what_the_model_computes(experiment: Experiment, texts: Texts) -> None:
    """At each site: the model run on the caption alone, by transformers."""
    index = Index(texts.side(experiment), texts, "cpu")
    assert [str(key) for key in index.side.keys] == [
        f"{site}@{AT}" for site in ("lm.00", "lm.06", "lm.12", "lm.12.norm")
    ]
    network, tokenizer = load_model(experiment.blueprint, "cpu").network, experiment.blueprint.processor.tokenizer
    for entry in (0, len(texts.ids) // 2, len(texts.ids) - 1):
        sample, place = texts.places[entry]
        prompt = tokenizer(f"USER: {texts.samples[sample].text} ASSISTANT:", return_offsets_mapping=True)
        ids, start = prompt["input_ids"], 6
        stop = start + len(texts.samples[sample].text)
        at = [i for i, (a, b) in enumerate(prompt["offset_mapping"]) if a < stop and b > start and b > a][place]
        out = network(input_ids=torch.tensor([ids]), output_hidden_states=True)
        for site, layer in enumerate((0, 6)):
            state = out.hidden_states[layer][0, at]
            assert torch.allclose(index.states[site, entry], state / state.norm(), atol=1e-3)
    for site in range(4):
        found = index.cosines(index.states[site])
        own = found[range(len(texts.ids)), range(len(texts.ids))]
        assert torch.allclose(own, torch.ones_like(own), atol=1e-5)
        assert torch.equal(found.argmax(1), torch.arange(len(texts.ids)))


def test_the_nearest_words_are_those_of_each_token_in_turn(
    experiment: Experiment, reading: Reading, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chunks as one by one; the top's two sites say the same; ids of the index are those of its tokens."""
    key = reading.keys[-2]
    assert [str(one.site) for one in reading.keys[-2:]] == ["lm.12", "lm.12.norm"]
    whole = {name: reading.nearest(name, key) for name in EVERY}
    normed = reading.nearest("logit", replace(key, site=Site("lm", 12, "norm")))
    assert (normed.ids[:, 0] == whole["logit"].ids[:, 0]).mean() > 0.99, "stored in 16 bits"
    monkeypatch.setattr("mllm_probe.spatial.lenses.nearest.AT_ONCE", 489 * 7)
    for name in EVERY:
        parts = reading.nearest(name, key)
        assert np.array_equal(parts.ids[:, 0], whole[name].ids[:, 0])
        assert np.allclose(parts.scores, whole[name].scores, atol=1e-5)
    assert set(whole["latent"].ids.ravel().tolist()) <= set(texts.ids.tolist())
    assert whole["logit"].named is not None and whole["embedding"].named is None
    stored, _ = experiment.store.read(
        key, [sample.uid for sample in experiment.examples.samples], experiment.store.coverage()
    )
    words = Vocabulary(load_model(experiment.blueprint, "cpu"))
    with torch.inference_mode():
        naive = words.logits(stored[5:6]).softmax(1)[0]
    assert whole["logit"].ids[5, 0] == int(naive.argmax())
    assert whole["logit"].scores[5, 0] == pytest.approx(float(naive.max()), abs=1e-5)


def test_kept_words_are_those_of_test_pictures(experiment: Experiment, reading: Reading) -> None:
    found = list(reading.rows())
    rows = [one for some, _ in found for one in some]
    assert {one.lens for one in rows} == set(EVERY)
    kept = [word for _, some in found for word in some]
    picked = {sample.digests[0]: sample.picked.tokens for sample in experiment.examples.samples}
    assert len({word.picture for word in kept}) == 2
    assert len(kept) == sum(len(picked[picture]) for picture in {w.picture for w in kept}) * 4 * 3 * 5
    for word in kept:
        assert word.token in picked[word.picture] and (word.row, word.column) == divmod(word.token, 6)
    best = {(w.picture, w.token, w.site, w.lens): w.score for w in kept if w.rank == 1}
    assert all(w.score <= best[w.picture, w.token, w.site, w.lens] for w in kept)


def test_an_index_over_the_budget_and_a_data_set_without_captions_are_refused(
    experiment: Experiment, texts: Texts
) -> None:
    size = texts.bytes(experiment)
    assert size == len(texts.ids) * 4 * 128 * 4
    assert f"{len(texts.ids)} tokens at 4 sites" in texts.check(experiment, size / 1e9)
    with pytest.raises(ConfigError, match="more than words.max_index_gb"):
        texts.check(experiment, size / 1e9 * 0.99)
    silent = replace(
        experiment.collection, pictures=tuple(replace(one, captions=()) for one in experiment.collection.pictures)
    )
    with pytest.raises(DataError, match="no captions"):
        Texts.of(replace(experiment, collection=silent), 0)


def test_keys_of_other_towers_are_not_read(experiment: Experiment) -> None:
    both = experiment.about(experiment.collection, experiment.examples, layers=replace(experiment.layers, towers=None))
    assert {key.site.tower for key in both.keys} == {"vision", "lm"}
    assert {key.site.tower for key in read_by(both)} == {"lm"}
