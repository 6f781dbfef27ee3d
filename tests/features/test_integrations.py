"""Several layers as one feature: which they are, what is made of them, what is found in them, what is said of them."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.decomposition import PCA as SklearnPCA

from mllm_probe.config.report import ReportSettings
from mllm_probe.errors import ConfigError
from mllm_probe.features.controls import Arms
from mllm_probe.features.derived import reduced, widened
from mllm_probe.features.integrated_rows import Pooled, Strung, pooled
from mllm_probe.features.integrations import Concat, Dci, Sci, Sti
from mllm_probe.features.recipes import Recipe, recipe
from mllm_probe.files.paths import RunPaths
from mllm_probe.probes.attention import Attention
from mllm_probe.probes.logistic import Logistic
from mllm_probe.probes.solving import standardised as features
from mllm_probe.records.problems import Compute, LayerData, Problem
from mllm_probe.report.figures import integrations as integration_figures
from mllm_probe.report.run import show
from mllm_probe.results.score_file import load_scores
from mllm_probe.scoring.verdicts.integration_gains import BY_LAYERS, BY_ONE, BY_WIDTH, LOSS, NO_GAIN, _order, _verdict
from tests.support.runs import QUICK, Run, Silent, folder, tiny

SEED = 3
PICTURE = ("layers.towers=[lm]", "extract.positions=[mean_image]", "task=objects", "task.per_category=6")


def layers(rows: int, width: int, number: int, dtype: torch.dtype = torch.float32) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    return {layer: torch.randn(rows, width, generator=generator).to(dtype) for layer in range(number)}


@pytest.mark.parametrize(("blocks", "second"), [(24, range(12, 24)), (27, range(13, 26))])
def test_the_layers_of_the_papers_towers(blocks: int, second: range) -> None:
    """CLIP ViT-L/14-336 and SigLIP so400m/14-384, whose last block LLaVA reads no more than its own."""
    final = blocks - 1
    for one in (Sti("sti"), Sci("sci")):
        assert one.arms(blocks, None).own.groups == ((7,), (15,)) and one.arms(blocks, None).own.final == final
    groups = Dci("dci").arms(blocks, None).own.groups
    assert groups == (tuple(range(second.start)), tuple(second))
    assert Concat("all").arms(blocks, None).own.groups == tuple((layer,) for layer in range(final))


def test_layers_follow_by_proportion_and_may_be_chosen() -> None:
    assert Sci("sci").arms(12, 11).own.groups == ((3,), (7,)) and Sci("sci").arms(8, 8).own.groups == ((2,), (5,))
    assert Sci("sci", layers=[5, 1]).arms(8, None).own == Recipe("sci", 7, ((5,), (1,)))
    assert Sci("sci", final=8).arms(8, 7).own.final == 8
    assert Dci("dci", groups=3).arms(8, None).own.groups == ((0, 1), (2, 3), (4, 5))
    assert Dci("dci", layers=[[1, 3], [7, 7]]).arms(8, None).own.groups == ((1, 2, 3), (7,))


@pytest.mark.parametrize(
    ("made", "blocks", "message"),
    [
        (lambda: Sci("sci"), 2, r"must be 2 or more for that; choose some, as in features.sci.layers=\[0\]"),
        (lambda: Sci("sci"), 0, "features=sci reads a vision tower, which this model lacks"),
        (lambda: Sci("sci", layers=[7, 15]), 8, r"features.sci.layers=\[7, 15\] must hold layers .*from 0 to 6, each"),
        (lambda: Sci("mine", layers=[2, 2]), 8, r"features.mine.layers=\[2, 2\] must hold layers"),
        (lambda: Sti("sti", layers=[True]), 8, r"features.sti.layers=\[True\] must hold layers"),
        (lambda: Sci("sci", final=9), 8, "features.sci.final=9 must be a layer of the vision tower, from 1 to 8"),
        (lambda: Dci("dci", groups=9), 8, "features.dci.groups=9 must be between 1 and 8, the layers from 0 to 7"),
        (
            lambda: Dci("dci", layers=[[0, 9]]),
            8,
            r"holds \[0, 9\], and must hold \[first,last\] of each group, from 0 to 7",
        ),
        (lambda: Dci("dci", layers=[3]), 8, "features.dci.layers holds 3, and must hold"),
        (lambda: Sti("sti", pooled=0), 8, "features.sti.pooled=0 must be 1 or more"),
        (lambda: Sci("sci", controls=["pcs"]), 8, "features.sci.controls names 'pcs'; did you mean 'pca'"),
    ],
)
def test_what_cannot_be_is_one_sentence(made: Any, blocks: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made().arms(blocks, None)


def test_pooled_rows_are_the_formulas_on_vectors() -> None:
    states = {layer: x.numpy() for layer, x in layers(7, 4, 9).items()}
    found = {kind: Pooled(recipe(kind, 8), layers(7, 4, 9))[2:6].numpy() for kind in ("mlp", "sti", "sci", "dci")}
    cut = {layer: x[2:6] for layer, x in states.items()}
    groups = [sum(cut[layer] for layer in group) / 4 for group in (range(4), range(4, 8))]
    np.testing.assert_array_equal(found["mlp"], cut[8])
    np.testing.assert_array_equal(found["sci"], np.concatenate([cut[8], cut[2], cut[5]], axis=1))
    np.testing.assert_allclose(found["dci"], np.concatenate([cut[8], *groups], axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["sti"], 0.8 * cut[8] + 0.1 * cut[2] + 0.1 * cut[5], rtol=1e-5, atol=1e-6)


def test_the_mean_over_the_tokens_of_an_integration_is_that_of_pooled_rows() -> None:
    """Sixteen tokens of one picture, as 8 divides them."""
    tokens = layers(16, 4, 9)
    means = {layer: x.mean(0, keepdim=True) for layer, x in tokens.items()}
    strung = Strung(recipe("sti", 8), tokens, np.asarray([0, 16]))
    assert strung.shape == (20, 4)
    torch.testing.assert_close(strung[0:20].mean(0), pooled(means, recipe("sti", 8))[0])
    for kind in ("sci", "dci"):
        torch.testing.assert_close(Pooled(recipe(kind, 8), tokens)[:].mean(0), pooled(means, recipe(kind, 8))[0])


def test_group_means_are_taken_in_float32() -> None:
    low = layers(5, 3, 9, torch.bfloat16)
    exact = torch.stack([low[layer].double() for layer in range(4)]).mean(0).float()
    torch.testing.assert_close(Pooled(recipe("dci", 8), low)[:][:, 3:6], exact, rtol=1e-6, atol=1e-7)


def naive_sti(tokens: dict[int, np.ndarray], made: Recipe) -> np.ndarray:
    rows = list(tokens[made.final])
    for (layer,) in made.groups:
        for start in range(0, len(tokens[layer]), made.pooled):
            run = tokens[layer][start : start + made.pooled]
            rows += [run.mean(axis=0)] if len(run) == made.pooled else []
    return np.stack(rows)


def test_strung_rows_are_the_naive_ones_and_the_attention_probe_reads_both_alike() -> None:
    """Decisions of 9 to 20 tokens, sliced anywhere; rests of fewer than 4 tokens are dropped."""
    generator = np.random.default_rng(SEED)
    lengths = generator.integers(9, 21, 40)
    bounds, made = np.cumsum([0, *lengths]), recipe("sti", 6, pooled=4)
    tokens = layers(int(bounds[-1]), 6, 7)
    y = generator.integers(0, 2, 40)
    for i in np.flatnonzero(y):
        tokens[1][bounds[i]] += 4  # one token of the lower layer
    strung = Strung(made, tokens, bounds)
    parts = [
        naive_sti({layer: x[bounds[i] : bounds[i + 1]].numpy() for layer, x in tokens.items()}, made) for i in range(40)
    ]
    naive = torch.from_numpy(np.concatenate(parts))
    np.testing.assert_array_equal(strung.bounds, np.cumsum([0, *map(len, parts)]))
    assert strung.shape == tuple(naive.shape) and len(strung[5:5]) == 0
    for cut in (slice(0, 3), slice(17, 61), slice(0, len(naive)), slice(len(naive) - 2, len(naive) + 9)):
        torch.testing.assert_close(strung[cut], naive[cut])
    train = np.arange(40) % 4 < 2
    problem = Problem(y, train, ~train & (np.arange(40) % 4 == 2))
    probe = Attention(heads=2, max_epochs=5)
    logits = [
        probe.fit(data, [problem])[0](data)
        for data in (LayerData(strung, strung.bounds), LayerData(naive, strung.bounds))
    ]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-5)


def planted(
    signal: float = 3.0, rows: int = 600, width: int = 12
) -> tuple[dict[int, torch.Tensor], Problem, np.ndarray]:
    """Nine layers of noise; the label is in layer 2 alone."""
    states = layers(rows, width, 9)
    y = np.random.default_rng(SEED).integers(0, 2, rows)
    states[2][:, 0] += torch.from_numpy(signal * (2 * y - 1)).float()
    place = np.arange(rows) % 3
    return states, Problem(y, place == 0, place == 1), place == 2


def accuracy(rows: Any, problem: Problem, test: np.ndarray) -> float:
    data = LayerData(rows)
    [fit] = Logistic().fit(data, [problem])
    return float(((fit(data) > 0) == problem.y)[test].mean())


def test_what_a_lower_layer_alone_holds_is_found_by_integrations_and_not_by_width() -> None:
    states, problem, test = planted()
    final, own = states[8], recipe("sci", 8)
    arms = Arms.of(own, ["repeated", "random_relu"], 0, 0)
    alone = accuracy(final, problem, test)
    assert arms.others["repeated"] is not None
    thrice = accuracy(Pooled(arms.others["repeated"], states), problem, test)
    wider = accuracy(widened(LayerData(final), problem.train, 24, 0), problem, test)
    assert (
        accuracy(Pooled(own, states), problem, test) > 0.95
        and accuracy(Pooled(recipe("dci", 8), states), problem, test) > 0.75
    )
    assert max(alone, thrice, wider) < 0.6 and abs(thrice - alone) < 0.05 and abs(wider - alone) < 0.1


def test_width_alone_scores_as_the_final_layer_where_that_holds_the_label() -> None:
    states, problem, test = planted()
    states[8] = states[2]
    alone = accuracy(states[8], problem, test)
    thrice = accuracy(Pooled(Recipe("sci", 8, ((8,), (8,))), states), problem, test)
    assert alone > 0.95 and abs(thrice - alone) < 0.02


class Watched:
    """Rows that remember the longest slice anyone took of them."""

    def __init__(self, rows: torch.Tensor, seen: list[int]) -> None:
        self._rows, self._seen, self.shape = rows, seen, rows.shape

    def __getitem__(self, rows: slice) -> torch.Tensor:
        found = self._rows[rows]
        self._seen.append(len(found))
        return found


def test_no_more_than_a_chunk_of_any_layer_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    states, problem, _ = planted()
    monkeypatch.setattr(features, "CHUNK_BYTES", 50 * 8 * 36)
    seen: list[int] = []
    watched = {layer: Watched(rows, seen) for layer, rows in states.items()}
    mixed = (Pooled(recipe("dci", 8), each) for each in (watched, states))
    data = [LayerData(rows, compute=Compute(memory=0)) for rows in mixed]
    fits = [Logistic().fit(each, [problem])[0] for each in data]
    np.testing.assert_array_equal(fits[0](data[0]), fits[1](data[1]))
    assert max(seen) == 50


def test_axes_and_moments_are_those_of_training_rows_alone() -> None:
    """They equal scikit-learn's on the training rows, and rows that are held out move nothing."""
    states, _, _ = planted()
    for rows, train in ((60, slice(0, 40)), (60, slice(0, 15))):  # more rows than columns, and fewer
        x = torch.cat([states[layer][:rows] for layer in (8, 2)], dim=1)
        mask = np.zeros(rows, bool)
        mask[train] = True
        other = x.clone()
        other[~mask] = 100 * other[~mask] + 7
        one, two = (reduced(LayerData(each), mask, 12) for each in (x, other))
        assert all(np.array_equal(one.arrays()[name], two.arrays()[name]) for name in one.arrays())
        known = x[mask].numpy()
        scaled = (known - known.mean(0)) / known.std(0)
        expected = SklearnPCA(12).fit(scaled).transform((x.numpy() - known.mean(0)) / known.std(0))
        found = one[:].numpy()
        np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=1e-3, atol=1e-3)
        even = found[mask].std(0)
        assert even.max() / even.min() < expected[mask].std(0).max() / expected[mask].std(0).min()
    wide, moved = (widened(LayerData(each), mask, 5, 1).arrays() for each in (x, other))
    assert all(np.array_equal(wide[name], moved[name]) for name in wide)
    assert not np.array_equal(
        wide["random_relu.weights"], widened(LayerData(x), mask, 5, 2).arrays()["random_relu.weights"]
    )


def test_axes_of_ragged_rows_are_those_of_the_tokens_of_training_decisions() -> None:
    x, bounds = layers(30, 4, 1)[0], np.asarray([0, 12, 20, 30])
    made = reduced(LayerData(x, bounds), np.asarray([True, False, True]), 2)
    known = torch.cat([x[:12], x[20:]])
    np.testing.assert_allclose(made.arrays()["pca.mean"], known.mean(0), atol=1e-6)


def test_random_features_are_what_their_formula_says() -> None:
    x = layers(20, 3, 1)[0]
    made = widened(LayerData(x), np.ones(20, bool), 4, 0)
    arrays = {name.removeprefix("random_relu."): value for name, value in made.arrays().items()}
    z = (x.numpy() - x.numpy().mean(0)) / x.numpy().std(0)
    expected = np.concatenate([x, np.maximum(z @ arrays["weights"] + arrays["bias"], 0)], axis=1)
    assert made.shape == (20, 7)
    np.testing.assert_allclose(made[4:9].numpy(), expected[4:9], rtol=1e-4, atol=1e-5)


def test_controls_take_other_layers_at_the_same_width_and_never_the_own_ones() -> None:
    own = recipe("sci", 8)
    arms = Arms.of(own, ["repeated", "random_layers", "all_layers", "pca", "best_layer"], 50, 1)
    drawn = {name: one for name, one in arms.others.items() if name.startswith("random_layers_")}
    assert len(drawn) == 8 * 7 // 2 - 1 == len({one.groups for one in drawn.values() if one})
    assert all(one and one.width == own.width and set(one.groups) != set(own.groups) for one in drawn.values())
    assert arms.others["final_layer"] == Recipe("mlp", 8) and arms.others["repeated"] == Recipe("sci", 8, ((8,), (8,)))
    assert arms.layers == tuple(range(9)) and Arms.of(own, [], 5, 0).layers == (2, 5, 8)
    assert Arms.of(own, ["random_layers"], 3, 1).others == Arms.of(own, ["random_layers"], 3, 1).others
    everything = Concat("concat").arms(4, None)
    assert everything.others == {
        "final_layer": Recipe("mlp", 3),
        "repeated": Recipe("sci", 3, ((3,),) * 3),
        "all_layers": None,
    }
    assert Sti("sti").arms(8, None).others["repeated"] == Recipe("sti", 7, ((7,), (7,)))


def said(**signs: str) -> dict[str, Any]:
    return {name: SimpleNamespace(verdict=sign, value=1.0) for name, sign in signs.items()}


def test_the_verdict_is_what_the_tests_allow() -> None:
    above = "above"
    assert _verdict(said(final_layer=""), None) == NO_GAIN and _verdict(said(final_layer="below"), None) == LOSS
    assert _verdict(said(final_layer=above, repeated=""), "repeated") == BY_WIDTH
    assert _verdict(said(final_layer=above, repeated=above, best_layer=""), "repeated") == BY_ONE
    assert _verdict(said(final_layer=above, repeated=above, best_layer=above), "repeated") == BY_LAYERS
    first, second = (SimpleNamespace(verdict=sign, value=value) for sign, value in (("", 0.01), (above, 0.1)))
    assert _order(first, second) == "holds" and _order(first, first) == "undecided"  # type: ignore[arg-type]
    assert _order(SimpleNamespace(verdict="below", value=-1.0), second) == "does not hold"  # type: ignore[arg-type]


@pytest.fixture
def swept(probe: Run, checkpoint: Path, tmp_path: Path) -> tuple[Path, str]:
    """A run that selects no vision layer, so that integrations must ask for theirs."""
    more = (
        "features=[single,sci,dci,sti]",
        "features.sci.layers=[1]",
        "controls=[random_weights]",
        "sweep.seeds=[0,1]",
    )
    code, out, err = probe("run", *tiny(checkpoint), *QUICK, *PICTURE, *more)
    assert code == 0, err
    return folder(tmp_path), out


def test_a_run_with_integrations(swept: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, arrays, tests and sentences of a real run; moments of an integration are those of its layers."""
    run, out = swept
    table = load_scores(run / "scores.csv")
    made = table[table.features.isin(["sci", "dci", "sti_mean"])]
    assert set(made.site) <= {"vision.00", "vision.01", "vision.02"} and set(made.position) == {"mean_image"}
    assert not len(table[(table.features == "single") & (table.tower == "vision") & (table.control == "")])
    own = {"", "final_layer", "repeated", "random_relu", "pca", "random_weights", "best_layer", "all_layers"}
    own |= {"random_layers_1", "random_weights_2", "random_weights_3"}
    assert own == set(made[made.features == "sci"].control)
    assert set(made[made.metric == "not_applicable"].control) == {"random_relu", "pca", "all_layers"}
    arrays = load_file(run / "probes.safetensors")
    weights = {name: arrays[f"vision.02@mean_image/logistic/{name}/seed0/weights"].shape[-1] for name in ("sci", "dci")}
    assert weights == {"sci": 128, "dci": 192}
    for name, order in (("sci", (2, 1)), ("dci", (2, 0, 1)), ("repeated/dci", (2, 2, 2))):
        means = [arrays[f"vision.{layer:02d}@mean_image/logistic/seed1/mean"] for layer in order]
        found = arrays[f"vision.02@mean_image/logistic/{name}/seed1/mean"]
        np.testing.assert_allclose(found, np.concatenate(means), rtol=1e-5, atol=1e-6)
    assert arrays["vision.02@mean_image/logistic/pca/sci/seed1/pca.axes"].shape[1] == 128
    tests = pd.read_csv(run / "tests.csv", keep_default_na=False)
    rows = tests[(tests.test == "integration") & (tests.family == "sci at mean_image")]
    assert {"final_layer", "repeated", "best_layer", "random_weights", "dci", "sti_mean"} <= set(rows.other)
    headline = made[(made.metric == "accuracy") & (made.seed == "all") & (made.features == "sci")].set_index("control")
    difference = headline.value[""] - headline.value["final_layer"]
    assert float(rows[rows.other == "final_layer"].value.iloc[0]) == pytest.approx(difference)
    summary = json.loads((run / "summary.json").read_text())
    assert [entry["layers"] for entry in summary["integrations"]] == [
        "2 + 1",
        "2 + 0 + 1",
        "no more than 0.8 x 2 + 0.1 x 0 + 0.1 x 1",
    ]
    assert "the paper's order, dci >= sci > final layer," in out and summary["orders"][0]["position"] == "mean_image"
    assert (run / "features.png").stat().st_size > 10_000 and (run / "features.pdf").read_bytes().startswith(b"%PDF")
    drawn: list[Any] = []
    draw = integration_figures.features_figure
    monkeypatch.setattr(
        integration_figures, "features_figure", lambda *given: (drawn.append(draw(*given)), drawn[-1])[1]
    )
    show(RunPaths(run), Silent(), ReportSettings())
    assert len(drawn) == 1, "one figure for its files and the page"
    show(RunPaths(run), Silent(), ReportSettings(style="paper"))
    assert [bool(one.get_suptitle()) for one in drawn[1:]] == [False, True], "the page's has a title"


def test_a_killed_run_goes_on_with_the_same_bytes(
    probe: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mllm_probe.features import derived

    args = (*tiny(checkpoint), *QUICK, *PICTURE, "features=sci")
    assert probe("run", *args)[0] == 0
    whole = folder(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(derived, "reduced", killed)
    assert probe("sweep", *args)[0] == 1
    kept = {path.name for path in (tmp_path / "outputs").glob("unfinished/*/*.safetensors")}
    assert "vision.02@mean_image.sci.random_relu.safetensors" in kept
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert probe("sweep", *args)[0] == 0
    for name in ("scores.csv", "tests.csv", "predictions.safetensors", "probes.safetensors"):
        assert (folder(tmp_path, "sweep") / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("features=sci", "extract.positions=[last]"), "features=sci reads a vision tower, where extract.positions="),
        (
            ("features=sci", "features.sci.layers=[7,15]"),
            r"features.sci.layers=\[7, 15\] must hold layers of the vision",
        ),
        (("features=sic",), "features=sic is unknown; did you mean 's.i'"),
        (("features=sti", "features.sti.alpha=8"), "'features.sti.alpha' is no setting"),
    ],
)
def test_bad_settings_fail_before_anything_is_read(
    probe: Run, checkpoint: Path, args: tuple[str, ...], message: str
) -> None:
    code, _, err = probe("extract", *tiny(checkpoint), *QUICK, *args)
    assert code == 1 and re.search(message, err), err
