"""`mllm-probe lens` from the command line: its files, their page again, and what it refuses."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.support.runs import Run

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
    assert drawn[drawn.lens != "latent"].value.abs().max() < 0.05
    presence = table[(table.metric == "presence_auroc") & (table.control == "")]
    assert (presence.lens == "logit").all() and presence.iloc[-1].site == ""
    summary = json.loads((folder / "summary.json").read_text())
    words = pd.read_csv(folder / "words.csv", keep_default_na=False)
    assert set(words.picture) == set(summary["shown"]) and len(summary["shown"]) == 3
    assert len(summary["said"]) == 4
    page = (folder / "report.html").read_bytes()
    assert b"embedding lens" in page and (folder / "lens.png").is_file() and (folder / "lens.pdf").is_file()
    (folder / "report.html").unlink()
    code, out, err = probe("report", "words")
    assert code == 0, err
    assert (folder / "report.html").read_bytes() == page
    code, out, err = probe("lens", *SMALL, "controls=none", "lens=[logit]", "hydra.run.dir=again")
    assert code == 0 and "are there" in out + err, "states are extracted once"


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
    ],
)
def test_what_no_lens_can_read_is_refused(probe: Run, words: tuple[str, ...], said: str) -> None:
    code, _, err = probe("lens", "dataset.pictures=40", *words)
    assert code == 1
    assert said in " ".join(err.split())
