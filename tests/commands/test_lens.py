"""`mllm-probe lens` from the command line: its files, their page again, and what it refuses."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open

from mllm_probe.results.lenses.attention import load_attention
from mllm_probe.spatial.grid_file import as_numbers, load_grids
from tests.support.runs import Run

ATTENTION = ("lens=[attention]", "task=objects")
SMALL = ("dataset.pictures=80", "layers.stride=6", "lens=[logit,embedding,latent]")


def test_a_run_leaves_its_files_and_is_shown_again(probe: Run, tmp_path: Path) -> None:
    code, out, err = probe("lens", *SMALL, "hydra.run.dir=words")
    assert code == 0, err
    assert "the index of lens=[latent] holds" in out + err
    folder = tmp_path / "words"
    table = pd.read_csv(
        folder / "lens.csv", keep_default_na=False, na_values={"value": [""], "low": [""], "high": [""]}
    )
    assert list(dict.fromkeys(table.site)) == ["lm.00", "lm.06", "lm.12", "lm.12.norm", ""]
    assert set(table.control) == {"", "exchanged_pictures", "random_weights"}
    shares = table[table.metric.isin(["local", "elsewhere", "unrelated"]) & (table.tokens == "objects")]
    sums = shares.groupby(["lens", "site", "control", "top"]).value.sum()
    assert sums.to_list() == pytest.approx([1.0] * len(sums))
    drawn = table[(table.control == "random_weights") & (table.metric == "local_above_chance")]
    # one draw gives each colour one arbitrary word, an error that intervals over pictures do not cover
    assert drawn[(drawn.lens != "latent") & (drawn.top.astype(str) == "1")].value.abs().max() < 0.05
    presence = table[(table.metric == "presence_auroc") & (table.control == "")]
    assert (presence.lens == "logit").all() and presence.iloc[-1].site == ""
    summary = json.loads((folder / "summary.json").read_text())
    words = pd.read_csv(folder / "words.csv", keep_default_na=False)
    assert set(words.picture) == set(summary["shown"]) and len(summary["shown"]) == 3
    assert len(summary["said"]) == 4
    grids = load_grids(folder / "grids.json")
    assert grids is not None and {one.picture.digest for one in grids.pictures} == set(summary["shown"])
    for one in grids.pictures:  # cells stand in the order of the tokens, in a grid of 6 x 6
        own = words[words.picture == one.picture.digest].drop_duplicates("token")
        assert np.allclose([cell[:2] for cell in one.cells], own[["column", "row"]] / 6, atol=1e-3)
    page = (folder / "report.html").read_bytes()
    assert b"embedding lens" in page and (folder / "lens.png").is_file() and (folder / "lens.pdf").is_file()
    (folder / "report.html").unlink()
    code, out, err = probe("report", "words")
    assert code == 0, err
    assert (folder / "report.html").read_bytes() == page
    code, out, err = probe("lens", *SMALL, "controls=none", "lens=[logit]", "hydra.run.dir=again")
    assert code == 0 and "are there" in out + err, "states are extracted once"


def test_attention_leaves_its_files_and_is_shown_again(probe: Run, tmp_path: Path) -> None:
    """Untrained weights look nowhere in particular: on the object lies its area."""
    words = (*ATTENTION, "dataset.pictures=80", "layers.stride=4", "attention.pictures=12", "attention.heads=true")
    code, out, err = probe("lens", *words, "controls=[random_weights]", "random_draws=1", "hydra.run.dir=looks")
    assert code == 0, err
    assert "statements about 12 pictures and of the neutral text at 3 blocks, of 4 heads each" in " ".join(err.split())
    assert "Attention is not use" in " ".join(out.split())
    folder = tmp_path / "looks"
    table = load_attention(folder / "attention.csv")
    assert list(dict.fromkeys(table.site)) == ["", "lm.04.attn", "lm.08.attn", "lm.12.attn"]
    assert set(table.control) == {"", "random_weights"} and set(table["head"].dropna()) == {0, 1, 2, 3}
    shares = table[table.metric != "object_above_area"]
    assert shares.value.between(0, 1).all() and (shares.low.dropna() >= 0).all() and (shares.high.dropna() <= 1).all()
    heads = table[(table.metric == "picture_mass") & (table.control == "")]
    means = heads[heads["head"].notna()].groupby(["site", "position"]).value.mean()
    whole = heads[heads["head"].isna()].set_index(["site", "position"]).value
    assert means.to_numpy() == pytest.approx(whole[means.index].to_numpy(), abs=1e-6)
    drawn = table[(table.control == "random_weights") & (table.metric == "object_above_area") & (table.kind == "own")]
    assert len(drawn) == 6 and (drawn.low <= 0.003).all() and (drawn.high >= -0.003).all()
    assert drawn.value.abs().max() < 0.01
    with safe_open(folder / "attention.safetensors", "np") as file:
        told = {name: json.loads(text) for name, text in file.metadata().items()}
        maps, bounds, neutral = (file.get_tensor(name) for name in ("statement", "bounds", "neutral"))
        assert file.get_tensor("heads").mean(2) == pytest.approx(maps, abs=1e-6)
    assert told["sites"] == ["lm.04.attn", "lm.08.attn", "lm.12.attn"] and told["spans"] == ["statement", "last"]
    assert maps.shape == (3, 2, bounds[-1]) and neutral.shape == (3, 2, 12 * 36)
    assert len(told["statements"]) + 1 == len(bounds) and max(told["picture_of"]) == 11
    each = [maps[2, 1, start:stop].sum() for start, stop in pairwise(bounds)]
    assert np.mean(each) == pytest.approx(whole["lm.12.attn", "last"], abs=1e-5)
    grids = load_grids(folder / "grids.json")
    assert grids is not None and len(grids.ways) == 6 and len(grids.pictures) == 8
    for one in grids.pictures:
        for text, said in one.said.items():
            n = next(
                n
                for n, each in enumerate(told["texts"])
                if each == text and told["pictures"][told["picture_of"][n]] == one.picture.digest
            )
            seen = maps[1, 1, bounds[n] : bounds[n + 1]]  # of the last token, which is the fourth way
            assert np.abs(as_numbers(said[3 * 3 + 1]) - 255 * seen / seen.max()).max() <= 0.51
    absent = [as_numbers(covered).any() for one in grids.pictures for covered in one.covered.values()]
    assert True in absent and False in absent
    sinks = pd.read_csv(folder / "sinks.csv", keep_default_na=False)
    assert (sinks.prompts > 0.5).all() and set(sinks.position) <= {"statement", "last"}
    page = (folder / "report.html").read_bytes()
    assert b"where statements look" in page and (folder / "attention.png").is_file()
    (folder / "report.html").unlink()
    code, out, err = probe("report", "looks")
    assert code == 0, err
    assert (folder / "report.html").read_bytes() == page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lens=[logits]",), "lens names 'logits', which is unknown; did you mean 'logit'"),
        (("lens=[]",), "lens=[] must hold at least one"),
        (("layers.parts=[attn]",), "lens reads whole states"),
        (("layers=vision",), "lens reads the language model"),
        (("task=entailment",), "task=entailment picks none; take task=regions"),
        (("task=study",), "lens reads one task"),
        (("words.max_index_gb=0",), "words.max_index_gb=0.0 must be above 0"),
        (("lens=[latent]", "words.max_index_gb=1e-5"), "more than words.max_index_gb=1e-05; raise it"),
        (("lens=[latent]", "extract.gpus=2"), "reads pictures and captions in one process"),
        (("lens=[attention,logit]",), "attention is read of statements and the others of picture tokens"),
        (("lens=[attention]",), "task=regions has none; take task=objects"),
        ((*ATTENTION, "model.attn=flash_attention_2"), "model.attn=flash_attention_2 is given no mask of single edges"),
        ((*ATTENTION, "attention.max_gb=1e-6"), "more than attention.max_gb=1e-06; raise it"),
        ((*ATTENTION, "layers.range=[0,0]"), "layers selects lm.00 alone"),
        ((*ATTENTION, "attention.pictures=1"), "attention.pictures=1 must be 2 to 100,000"),
        ((*ATTENTION, "attention.sink_mass=1"), "attention.sink_mass=1.0 must be between 0 and 1"),
        ((*ATTENTION, "attention.neutral=' '"), "attention.neutral=' ' must not be empty"),
    ],
)
def test_what_no_lens_can_read_is_refused(probe: Run, words: tuple[str, ...], said: str) -> None:
    code, _, err = probe("lens", "dataset.pictures=40", *words)
    assert code == 1
    assert said in " ".join(err.split())
