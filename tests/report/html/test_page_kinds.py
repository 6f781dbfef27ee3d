"""report.html of commands other than `run`: what their tables say, names as they are, nothing from elsewhere."""

import shutil
from pathlib import Path

import pytest

from tests.support.other_pages import KINDS, NAME, SITES, made
from tests.support.pages import EVIL, Markup
from tests.support.runs import QUICK, Run, tiny

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")  # what a font of figures lacks, the page has


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(request.param, tmp_path_factory.mktemp("other") / request.param)


def test_names_are_shown_as_they_are_and_nothing_is_fetched(folder: Path) -> None:
    page = Markup(folder / "report.html")
    assert " ".join(NAME.split()) in page.words
    assert page.tags.count("script") == len(page.scripts) and all(EVIL not in text for _, text in page.scripts[-1:])
    assert "onerror" not in {name for _, name, _ in page.attributes}
    addresses = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert addresses and all(value.startswith("data:image/") for value in addresses)
    (policy,) = [value for tag, name, value in page.attributes if tag == "meta" and "default-src" in value]
    assert policy.startswith("default-src 'none'")


def test_report_makes_the_same_page_again(probe: Run, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "report.html").unlink()
    code, _, err = probe("report", str(copy))
    assert code == 0, err
    assert (copy / "report.html").read_bytes() == (folder / "report.html").read_bytes()


def test_pages_have_the_numbers_of_the_tables(folder: Path) -> None:
    page = Markup(folder / "report.html")
    charts, kind = page.charts, folder.name
    if kind == "geometry":
        assert charts["CKA (unbiased) at last"]["data"][0]["z"] == [[0.5] * 3] * 3
        assert "layers against layers" in page.words and "layers alone" in page.words
    elif kind == "fidelity":
        lines = {trace["name"]: trace["y"] for trace in charts["accuracy at last"]["data"] if "customdata" in trace}
        assert lines == {"reference": [0.75] * 3, "model": [0.5] * 3}
        assert "the probe's score changes most at lm.00, by -25.0 points" in page.words
    elif kind == "align":
        drawn = charts["true or false"]["data"][0]
        assert drawn["x"] == list(SITES) and drawn["y"] == pytest.approx([0, 0.2, 0.4])
    elif kind == "regions":
        (drawn,) = (t for t in charts["mIoU of what covers a token"]["data"] if "customdata" in t)
        assert drawn["x"] == list(SITES) and drawn["y"] == pytest.approx([0, 0.3, 0.6])
        assert "what single picture tokens know" in page.words and len(page.sources("png")) == 1
    elif kind == "lens":
        lines = {
            t["name"]: t["y"] for t in charts["logit lens: share of tokens on objects"]["data"] if "customdata" in t
        }
        assert lines["local, nearest word"] == pytest.approx([0, 0.3, 0.6])
        assert "30.0" in page.words and "embedding lens" in page.words
    elif kind == "attention":
        drawn = [t for t in charts["of it, on the object: the last token"]["data"] if "customdata" in t]
        assert [t["name"] for t in drawn] == ["attention", "relative to a neutral question"]
        assert all(t["y"] == [0.3] * 3 and t["line"]["dash"] == "solid" for t in drawn)
        assert "what the last token attends to" in page.words and "Attention is not use." in page.words
    else:
        assert charts["losses"]["data"][0]["y"] == [2, 1, 0]
        assert (
            "1.0000 nats a token [0.5000, 1.5000] over 4 captions" in page.words and "model.path=FOLDER" in page.words
        )


def test_a_damaged_training_is_one_sentence(probe: Run, tmp_path: Path) -> None:
    root = made("tune", tmp_path / "tune")
    (root / "summary.json").write_text("{}")
    code, _, err = probe("report", str(root))
    assert code == 1 and "summary.json is damaged (it lacks the entry 'held_out')" in err and "Traceback" not in err


def test_a_sweep_ends_with_its_page(probe: Run, checkpoint: Path) -> None:
    args = (*tiny(checkpoint), *QUICK, "layers.towers=[lm]", "layers.stride=4", "sweep.seeds=[0]", "controls=none")
    assert probe("extract", *args, "guards=note")[0] == 0
    code, _, err = probe("sweep", *args, "guards=note", "hydra.run.dir=swept")
    assert code == 0 and "open report.html there" in err, err
    page = Markup(Path("swept/report.html"))
    assert "mllm-probe sweep model=custom" in page.words and "all positions" in page.charts
