"""What a figure must be for a paper whatever is drawn: letters that journals take, nothing over another thing, a colour
for a meaning."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.config.sweep import PERMUTED
from mllm_probe.report.figures import fidelity as precision
from mllm_probe.report.figures import style
from mllm_probe.report.figures.align import FLOORS as EXCHANGED
from mllm_probe.report.figures.comparison import draw_comparison
from mllm_probe.report.figures.effects import ProbeCurve, draw_effects, draw_read_and_used
from mllm_probe.report.figures.geometry import draw_geometry
from mllm_probe.report.figures.layers import layers_figure
from mllm_probe.report.figures.study import study_figure
from mllm_probe.report.figures.tasks import draw_tasks
from mllm_probe.report.figures.training import draw_arms, draw_losses
from mllm_probe.report.html.charts import layer_charts
from mllm_probe.report.tables.findings import Reading
from mllm_probe.results import training
from mllm_probe.results.effects import load_effects, save_effects
from mllm_probe.results.score_file import ScoreFile, load_scores, load_tests
from mllm_probe.scoring.effects import Scored
from tests.support.score_tables import HALF, LAYERS, PEAKED, PLATEAU, at, draw_layers, draw_study, score, write
from tests.support.score_words import reading, table
from tests.support.sweeps import NAMED, sweep_of, windows

PAPER = ReportSettings(style="paper")
VISION = {32: 24, 80: 48}  # blocks of the vision tower beside so many of the language model


def deep(folder: Path, layers: int, task: str = "entailment") -> pd.DataFrame:
    """A run of a model with that many blocks, a Q-Former and a connector; three positions, controls and floors."""
    rows = []
    for tower, number in (("vision", VISION[layers]), ("qformer", 2), ("connector", 0), ("lm", layers)):
        for layer in range(number + 1):
            read = ("last", "mean_text", "mean_image") if tower == "lm" else ("mean_image",)
            places = [at(tower, layer, name, layer / max(number, 1)) for name in read]
            places += [{**one, "part": "norm", "site": f"{one['site']}.norm"} for one in places if layer == layers]
            low = {"last": 0, "mean_text": 0.05, "mean_image": 0.1}
            rows += [score(0.6 + 0.3 * np.sin(layer / 20) - low[p["position"]], task=task, **p) for p in places]
            if tower == "lm":
                rows += [score(value, task=task, control=name, **places[0]) for name, value in HALF.items()]
    for name, value in (("zero_shot", 0.62), ("question_only", 0.507)):
        rows.append(score(value, task=task, control=name, probe="answer"))
    for name, value in (("vision_only", 0.505), ("copy_ceiling", 0.985)):
        rows.append(score(value, task=task, control=name, **at("lm", 3, "last", 0.1)))
    rows.append(score(0.5, task=task, probe="majority"))
    folder.mkdir()
    ScoreFile(folder / "scores.csv").add(rows)
    return load_scores(folder / "scores.csv")


def shown(figure: Any) -> Iterator[Text]:
    """Every text that is drawn: of ticks, axes, panels, legends and of the figure itself."""
    for part in (figure, *figure.subfigs):
        yield from filter(None, (part._suptitle, part._supxlabel, part._supylabel))
        yield from (text for legend in part.legends for text in legend.get_texts())
    for panel in (panel for panel in figure.axes if panel.get_visible()):
        yield from (panel.title, panel._left_title, panel._right_title, panel.xaxis.label, panel.yaxis.label)
        yield from panel.texts
        yield from panel.get_legend().get_texts() if panel.get_legend() else ()
        for axis in (panel.xaxis, panel.yaxis):
            yield from (tick.label1 for tick in axis._update_ticks() if tick.label1.get_visible())


def collisions(figure: Figure) -> list[str]:
    """Pairs of texts whose boxes lie over each other, and texts that leave the figure."""
    FigureCanvasAgg(figure).draw()
    texts = [text for text in shown(figure) if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in texts]  # of annotations without their arrow
    page = figure.bbox.padded(2)
    out = [f"{name} leaves the figure" for name, b in boxes if b.x0 < page.x0 or b.x1 > page.x1 or b.y0 < page.y0]
    out += [f"{name} leaves the figure" for name, box in boxes if box.y1 > page.y1]
    wide = [(name, box.expanded(1, 0.9).padded(1, -0.5)) for name, box in boxes]  # words need a gap, lines do not
    over = [f"{a} over {b}" for i, (a, one) in enumerate(wide) for b, two in wide[:i] if one.overlaps(two)]
    return out + over


def relations(layers: int) -> pd.DataFrame:
    sites = [f"{tower}.{i:02d}" for tower, n in (("vision", VISION[layers]), ("lm", layers)) for i in range(n + 1)]
    common = {"model": "mini", "position": "last", "null_high": 0.1}
    pairs = [{"measure": "cka", "site_a": a, "site_b": b, "value": 0.5} | common for a in sites for b in sites]
    alone = [{"measure": "entropy", "site_a": a, "site_b": "", "value": 2.0} | common for a in sites]
    return pd.DataFrame(pairs + alone)


def draw_both(folder: Path, layers: int, settings: ReportSettings = DEFAULT) -> None:
    """A study whose curves have their best layers at the bottom and at the top, which are named there."""
    whole, local = deep(folder / "a", layers), deep(folder / "b", layers, "objects")
    best = [reading(whole, table({"lm.00": 1.0}), site="lm.00"), reading(local, table({"lm.01": 0.3, "lm.08": 1.0}))]
    draw_study(whole, local, best, [folder / "a.png"], settings)


def changed(folder: Path, layers: int) -> pd.DataFrame:
    """Of a knockout of six edges."""
    edges = ("image->statement", "image->last", "statement->last", "object->statement", "rest->statement", "image->all")
    sweep = sweep_of(windows(edges, layers, draws=2), pictures=12, each=2)
    save_effects(folder / "effects.csv", Scored(sweep, NAMED, permutations=99).rows)
    return load_effects(folder / "effects.csv")


Draw = Callable[[Path, int], None]
DRAWS: Mapping[str, Draw] = {
    "layers": lambda folder, n: draw_layers(deep(folder / "a", n), [folder / "a.png"]),
    "layers on paper": lambda folder, n: draw_layers(deep(folder / "a", n), [folder / "a.png"], PAPER),
    "study": lambda folder, n: draw_both(folder, n),
    "study on paper": lambda folder, n: draw_both(folder, n, PAPER),
    "comparison": lambda folder, n: draw_comparison(
        {name: deep(folder / name[:5], n) for name in ("llava-1.5-7b, nf4", "qwen2.5-vl-7b, a longer label of a run")},
        dict.fromkeys([(a, "last") for a in ("llava-1.5-7b, nf4", "qwen2.5-vl-7b, a longer label of a run")], "lm.05"),
        ["last"],
        [folder / "a.png"],
    ),
    "effects": lambda folder, n: draw_effects(changed(folder, n), [folder / "a.png"]),
    "effects on paper": lambda folder, n: draw_effects(changed(folder, n), [folder / "a.png"], PAPER),
    "read and used": lambda folder, n: draw_read_and_used(
        changed(folder, n), ProbeCurve(deep(folder / "a", n), "last", ("lm.05", "lm.09")), [], [folder / "a.png"]
    ),
    "read and used on paper": lambda folder, n: draw_read_and_used(
        changed(folder, n), ProbeCurve(deep(folder / "a", n), "last", ("lm.05", "lm.09")), [], [folder / "a.png"], PAPER
    ),
    "geometry": lambda folder, n: draw_geometry(relations(n), [folder / "a.png"]),
}


@pytest.mark.parametrize("layers", list(VISION))
@pytest.mark.parametrize("name", list(DRAWS))
def test_nothing_lies_over_another_thing(name: str, layers: int, tmp_path: Path, drawn: list[Figure]) -> None:
    DRAWS[name](tmp_path, layers)
    assert not collisions(drawn[0])
    assert min(panel.get_window_extent().height for panel in drawn[0].axes if panel.lines) > drawn[0].dpi, "an inch"


@pytest.mark.parametrize("settings", [ReportSettings(), PAPER])
def test_names_of_forty_letters_are_neither_cut_nor_over_another(
    settings: ReportSettings, tmp_path: Path, drawn: list[Figure]
) -> None:
    """Of models, tasks and data sets, with places to break a line and without; a size that is asked for stays."""
    long = {"model": "qwen2.5-vl-72b-tuned-on-hospital-reports", "dataset": "scenes_of_our_own_collected_in_spring_26"}
    whole, local = (
        load_scores(write(tmp_path / task, task, PEAKED)).assign(**long, task=name)
        for task, name in (
            ("a", "entailment-of-long-captions-by-hospitals"),
            ("b", "objects_of_captions_in_the_second_place"),
        )
    )
    draw_layers(whole, [tmp_path / "a.png"], settings)
    draw_study(whole, local, [None, None], [tmp_path / "a.png"], settings)
    runs = {f"{long['model']}, {name}": whole for name in ("nf4", "int8")}
    draw_comparison(runs, dict.fromkeys([(name, "last") for name in runs], "lm.05"), ["last"], [tmp_path / "a.png"])
    row = training.Effect(
        "refitted", local.task[0], "last", "all", training.FULL, training.PLAIN, "points", 9, 9, 0.1, "0.1", -1, 1
    )
    draw_arms([row], [tmp_path / "a.png"], settings)
    assert [collisions(figure) for figure in drawn] == [[], [], [], []]
    least = [min(panel.get_window_extent().height for panel in one.axes if panel.lines) / one.dpi for one in drawn]
    assert min(least[:3]) > 1, "an inch"
    draw_layers(whole, [tmp_path / "a.png"], ReportSettings(size=[6.0, 3.5]))
    assert drawn[-1].get_size_inches().tolist() == [6, 3.5]


@pytest.mark.parametrize("style", ["screen", "paper"])
@pytest.mark.parametrize("layers", [LAYERS, 32, 80])
def test_the_state_after_the_norm_has_its_tick(layers: int, style: str, tmp_path: Path) -> None:
    if layers == LAYERS:
        top = {**at("lm", 8, "last", 1.0), "site": "lm.08.norm", "part": "norm"}
        scores, last = load_scores(write(tmp_path / "a", "entailment", PEAKED, more=[score(0.9, **top)])), "8n"
    else:
        scores, last = deep(tmp_path / "a", layers), f"{layers}n"
    panel = layers_figure(scores, ReportSettings(style=style)).axes[-1]
    names = [label.get_text() for label in panel.get_xticklabels()]
    assert names[0] == "0" and names[-1] == last and "n: " in panel.get_xlabel()


def test_letters_in_a_pdf_are_truetype(tmp_path: Path) -> None:
    """Type 3, which journals refuse, is matplotlib's own choice. No figure is written but by `save`."""
    draw_layers(deep(tmp_path / "a", 32), [tmp_path / "a.pdf"], PAPER)
    written = (tmp_path / "a.pdf").read_bytes()
    assert b"/FontFile2" in written and b"/Type3" not in written and b"/CIDFontType2" in written
    if shutil.which("pdffonts"):
        said = subprocess.run(["pdffonts", tmp_path / "a.pdf"], capture_output=True, text=True, check=True).stdout
        assert "TrueType" in said and "Type 3" not in said
    package = Path(__file__).parents[3] / "mllm_probe"
    writers = [path.name for path in package.rglob("*.py") if re.search(r"\.savefig\(", path.read_text())]
    assert writers == ["saving.py"]


def coloured(figure: Figure) -> dict[str, str]:
    """{what a line is: its colour}."""
    from matplotlib.colors import to_hex

    lines = [line for panel in figure.axes for line in panel.lines]
    return {str(line.get_gid() or line.get_label()): to_hex(line.get_color()) for line in lines}


def test_a_colour_has_one_meaning(tmp_path: Path) -> None:
    """In the figure of layers, of a study and in the page's charts; no floor and no control has that of a position."""
    scores = load_scores(write(tmp_path / "a", "entailment", PEAKED))
    local = load_scores(write(tmp_path / "b", "objects", PLATEAU))
    still, study = coloured(layers_figure(scores)), coloured(study_figure(scores, local, [None, None]))
    chart = next(one for one in layer_charts(scores) if one["name"] == "last")
    live = {trace["name"]: trace["line"]["color"].lower() for trace in chart["data"] if "name" in trace}
    positions = {name: still.pop(name) for name in ("last", "mean_text", "mean_image")}
    assert live.pop("last") == positions["last"] and not set(positions.values()) & {*still.values(), *live.values()}
    assert study["chance"] == still["majority"]
    same = {"text only", "blank picture", "random weights", "zero shot", "question only", "vision only"}
    named = {name.removeprefix("last, "): colour for name, colour in still.items()}
    from mllm_probe.report.figures.style import on_page

    for name in same:
        assert live[name] == on_page(named[name]), name
    apart = [named[name] for name in (*same, "majority", "shuffled picture", "copy ceiling")]
    assert len(set(apart)) == len(apart)
    assert EXCHANGED["permuted"][0] != named["text only"]


def test_a_position_keeps_its_colour_whatever_else_was_read(tmp_path: Path) -> None:
    scores = load_scores(write(tmp_path / "a", "entailment", PEAKED))
    fewer = scores[scores.position != "last"]
    assert coloured(layers_figure(fewer))["mean_text"] == coloured(layers_figure(scores))["mean_text"]


def test_colours_stand_in_one_table() -> None:
    """No other file makes a colour, or takes the next of a row of them; greys are lines and letters, no categories."""
    made = re.compile(r"#[0-9A-Fa-f]{6}\b|\bCOLOURS\b|color=\"(?!0\.|none|white)")
    pages = {"prompt_tokens.py"}  # of paper and ink
    package = Path(__file__).parents[3] / "mllm_probe"
    files = [*(package / "report").rglob("*.py"), *(package / "commands").glob("*.py")]
    found = [path.name for path in files if made.search(path.read_text())]
    assert set(found) - pages == {"style.py"}


def test_a_task_a_run_and_a_side_look_alike_in_all_figures(tmp_path: Path, drawn: list[Figure]) -> None:
    """Of a study and of tasks side by side; of runs whose tasks are not the same; of fidelity's figure and page."""
    tables = {task: load_scores(write(tmp_path / task, task, PEAKED)) for task in ("objects", "count", "entailment")}
    study = study_figure(tables["objects"], tables["entailment"], [None, None])
    summary = {"chosen": {"last": {"site": "lm.05", "value": 0.93, "low": 0.91, "high": 0.95}}, "metric": "accuracy"}
    models = {
        "mini": {task: Reading(one, summary, load_tests(tmp_path / "none"), "last") for task, one in tables.items()}
    }
    draw_tasks(models, [tmp_path / "tasks.png"])
    one, both = coloured(study), coloured(drawn[-1])
    for task, kind in (("objects", "global"), ("entailment", "local")):
        assert one[f"{task} ({kind})"] == both[f"{task} at last, accuracy"]
    assert len({both[f"{task} at last, accuracy"] for task in tables}) == 3
    runs, chosen = tables["objects"], dict.fromkeys([(name, "last") for name in "abc"], "lm.05")
    for shown in ("ab", "bc"):
        draw_comparison(dict.fromkeys(shown, runs), chosen, ["last"], [tmp_path / "runs.png"], list("abc"))
    assert coloured(drawn[-1])["b"] == coloured(drawn[-2])["b"] != coloured(drawn[-1])["c"]


def test_no_two_meanings_of_a_figure_share_a_colour() -> None:
    tables = (style.POSITIONS, style.TASKS, {**style.SIDES, **style.STATES}, style.ARMS, style.FEATURES)
    for one in (*tables, style.READINGS, style.PLAN, style.LOSSES):
        assert len(set(one.values())) == len(one)  # type: ignore[arg-type]
    assert style.ARMS[training.PERMUTED] == style.OTHER_LABELS[PERMUTED] and training.FULL in style.ARMS
    assert set(training.DRAWN) == set(style.LOSSES) and set(precision.ERRORS | precision.LIKENESS) == set(style.STATES)


def test_figures_of_trainings_have_titles(tmp_path: Path, drawn: list[Figure]) -> None:
    row = training.Effect(
        "refitted", "objects", "last", "all", training.FULL, training.PLAIN, "points", 9, 9, 0.1, "0.1", -1, 1
    )
    steps = pd.DataFrame({"step": range(40), "loss": 2.0, "lg": 1.0, "ld": 1.0})
    for settings in (ReportSettings(), PAPER):
        draw_arms([row], [tmp_path / "arms.png"], settings)
        draw_losses(steps, [tmp_path / "losses.png"], settings)
    said = [figure.get_suptitle() for figure in drawn]
    assert all(said[:2]) and not any(said[2:])
