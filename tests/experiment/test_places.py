"""Picked tokens go through the cache of models with other grids: tiles, merged and shuffled tokens."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open

from tests.support.families_more import BUILDERS, SETTINGS
from tests.support.runs import Run

FAMILIES = ("llava", "llava_next", "qwen2_5_vl", "internvl")
PICTURES = 8


@pytest.mark.parametrize("name", FAMILIES)
def test_extract_stores_the_picked_tokens_of_every_picture(name: str, probe: Run, tmp_path: Path) -> None:
    """As many rows in every tower, some of test pictures whole; the connector's are the language model's input."""
    folder = BUILDERS[name](tmp_path / name)
    own = [f"model.{key}={value}" for key, value in SETTINGS.get(name, {}).items()]
    words = ("model=custom", f"model.path={folder}", "model.quantization=none", "model.dtype=float32", *own)
    code, out, err = probe("extract", "task=regions", f"dataset.pictures={PICTURES}", "task.tokens=6", *words)
    assert code == 0, err
    rows: dict[str, int] = {}
    for path in (tmp_path / "outputs" / "cache").glob("*/groups/*/*.safetensors"):
        with safe_open(path, "np") as file:
            keys = json.loads(file.metadata()["index"])["spaces"]
            for key in keys:
                found = file.get_tensor(key)
                assert np.isfinite(found).all()
                rows[key] = rows.get(key, 0) + len(found)
    towers = {key.partition(".")[0] for key in rows}
    assert towers == {"vision", "lm"} and len(set(rows.values())) == 1
    (total,) = set(rows.values())
    assert total > 6 * PICTURES, "test pictures are whole"
    assert "connector: none of the requested positions exists there, left out" in out + err


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "llava_next" else pytest.mark.slow) for name in FAMILIES]
)
def test_single_tokens_are_scored_read_in_words_and_looked_at_on_every_kind_of_grid(
    name: str, probe: Run, tmp_path: Path
) -> None:
    """Thumbnail and tiles are scored as views of their own; a drawn model's words are local no more often than chance
    makes them, give or take what one draw does."""
    folder = BUILDERS[name](tmp_path / name)
    own = [f"model.{key}={value}" for key, value in SETTINGS.get(name, {}).items()]
    words = ("model=custom", f"model.path={folder}", "model.quantization=none", "model.dtype=float32", *own)
    more = ("dataset.pictures=120", "task.tokens=6", "sweep.seeds=[0]", "controls=none")
    code, _, err = probe("run", "task=regions", *words, *more, "hydra.run.dir=run")
    assert code == 0, err
    table = pd.read_csv(tmp_path / "run" / "regions.csv", keep_default_na=False)
    assert {"vision.00", "lm.00"} <= set(table.site) and {"miou", "auroc", "average_precision"} <= set(table.metric)
    assert table[table.metric == "auroc"].value.astype(float).between(0, 1).all()
    assert ("0" in set(table.view.astype(str))) is (name in ("llava_next", "internvl"))
    code, _, err = probe("lens", "lens=[logit,embedding,latent]", *words, *more, "hydra.run.dir=lens")
    assert code == 0, err
    found = pd.read_csv(tmp_path / "lens" / "lens.csv", keep_default_na=False)
    shares = found[(found.metric == "local_above_chance") & (found.tokens == "objects")].value.astype(float)
    assert len(shares) and shares.abs().max() < 0.15
    asked = ("task=objects", "task.rare=keep", "dataset.pictures=60", "attention.pictures=8", "controls=none")
    code, _, err = probe("lens", "lens=[attention]", *words, *asked, "hydra.run.dir=attention")
    assert code == 0, err
    looks = pd.read_csv(tmp_path / "attention" / "attention.csv", keep_default_na=False)
    assert {"picture_mass", "object_above_area"} <= set(looks.metric) and set(looks.n_groups.astype(int)) <= set(
        range(9)
    )


def test_a_model_without_places_is_refused_before_its_weights_are_read(probe: Run, tmp_path: Path) -> None:
    folder = BUILDERS["blip2"](tmp_path / "blip2")
    words = ("model=custom", f"model.path={folder}", "model.quantization=none", "model.dtype=float32")
    code, _, err = probe("run", "task=regions", "dataset.pictures=8", *words)
    assert code == 1
    assert "queries of a Q-Former, each of which reads the whole picture, so none has a place" in " ".join(err.split())
    assert "loading" not in err
