"""What is shown is what an extraction reads: the same tokens, the same words, and nothing of a data file runs."""

import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from mllm_probe.config.model import ModelSettings
from mllm_probe.errors import ModelError
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.loading.checkpoint import BUNDLED, find_checkpoint
from mllm_probe.models.prompts.collate import Collator
from mllm_probe.models.prompts.rendering import PART, Rendering, spelled
from mllm_probe.records.samples import Collection, Decision, Sample
from mllm_probe.records.sites import Key, Site
from mllm_probe.report.html.inspect_page import page
from mllm_probe.report.html.prompt_tokens import Inspection, inspection, lanes
from mllm_probe.report.terminal.inspect import print_inspections
from tests.support.checkpoints import CHAT, blueprint_of, make_tokenizer, save_llava
from tests.support.families_more import BUILDERS
from tests.support.pictures_on_disk import coco_folder
from tests.support.runs import QUICK, Run, tiny

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of PaliGemma's processor
TEXT = "Is there a zebra, or a lynx, in this image?"
MARKS = {f"animal:{word}": (TEXT.index(word), TEXT.index(word) + len(word)) for word in ("zebra", "lynx")}
POSITIONS = ("last", "last_image", "mean_image", "mean_text", "mark:animal", "before:animal", "tokens:animal")
SHOWN = ("mini", "mini_base", "qwen2_5_vl", "idefics3", "kosmos2", "blip2")


@pytest.fixture(scope="module", params=SHOWN)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundled = BUNDLED / request.param
    return bundled if bundled.is_dir() else BUILDERS[request.param](tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def zebra(scenes: Collection) -> list[Sample]:
    """Two questions of different length, so that one of them is padded."""
    more = " Or in many, many more words than the first?"
    return [Sample.of([picture], TEXT + more * i, MARKS) for i, picture in enumerate(scenes.pictures[:2])]


def seen(blueprint: Blueprint, sample: Sample, positions: tuple[str, ...] = POSITIONS) -> Inspection:
    label = Decision("d", sample.uid, "present", 1, "g", mark="animal:lynx", strata={"category": "lynx"})
    return inspection(Rendering.of(blueprint, sample), [label], {"g": "val"}, positions, blueprint.anatomy)


@pytest.mark.parametrize("side", ["left", "right"])
def test_places_are_those_that_an_extraction_reads(folder: Path, zebra: list[Sample], side: str) -> None:
    blueprint = blueprint_of(folder, padding_side=side)
    collator = Collator(blueprint, lambda: pytest.fail("text only"), lambda _: pytest.fail("plain only"), None)
    batch = collator.plain(zebra, [Key(Site("lm", 1), position) for position in POSITIONS], None, blueprint.anatomy)
    real = batch.inputs["attention_mask"].flatten().bool().nonzero()[:, 0].tolist()
    length = batch.inputs["attention_mask"].sum(dim=1).tolist()
    for b, sample in enumerate(zebra):
        for spot in seen(blueprint, sample).spots[: len(POSITIONS)]:
            reading = batch.readings["lm", spot.name]
            bounds = [reading.segments[t : t + 2] for t in range(reading.rows[b], reading.rows[b + 1])]
            read = [[real.index(token) - sum(length[:b]) for token in reading.tokens[a:z]] for a, z in bounds]
            assert [list(row) for row in spot.rows] == read, spot.name


def test_marks_hold_their_words_and_no_others(folder: Path, zebra: list[Sample]) -> None:
    blueprint = blueprint_of(folder)
    for sample in zebra:
        rendering, shown = Rendering.of(blueprint, sample), seen(blueprint, sample)
        ids, spots = rendering.layout.ids, {spot.name: spot for spot in shown.spots}
        for mark, (start, stop) in MARKS.items():
            tokens = sorted(spots[mark].tokens)
            assert blueprint.processor.tokenizer.decode([ids[i] for i in tokens]).strip() == TEXT[start:stop]
            assert "".join(rendering.pieces[i] for i in tokens).strip() == TEXT[start:stop]
        assert sum(piece.count for piece in shown.pieces) == shown.tokens == len(ids)
        read = {
            token for piece in shown.pieces if piece.signs for token in range(piece.index, piece.index + piece.count)
        }
        assert read == set().union(*(spot.tokens for spot in shown.spots))
        assert all(
            not spot.tokens & other.tokens
            for lane in lanes(shown.spots)
            for spot in lane
            for other in lane
            if spot is not other
        )


def test_pictures_are_folded_where_one_spot_reads_them(folder: Path, zebra: list[Sample]) -> None:
    blueprint = blueprint_of(folder)
    whole = seen(blueprint, zebra[0], ("mean_image",))
    (image,) = whole.spots[0].rows
    runs = [piece for piece in whole.pieces if "A" in piece.signs]
    assert sum(piece.count for piece in runs) == len(image) > len(runs)
    cut = seen(blueprint, zebra[0], ("mean_image", "last_image"))
    assert [piece.count for piece in cut.pieces if "B" in piece.signs] == [1]


def test_a_character_of_several_tokens_and_the_way_to_json_and_back(folder: Path, scenes: Collection) -> None:
    sample = Sample.of(scenes.pictures[:1], "A café, 漢字, a\ttab.", {"drink": (2, 6)})
    rendering = Rendering.of(blueprint_of(folder), sample)
    image = set(rendering.layout.image)
    said = "".join(piece for i, piece in enumerate(rendering.pieces) if i not in image and piece != PART)
    assert sample.text in said
    assert Rendering.from_json(sample, json.loads(json.dumps(rendering.to_json()))) == rendering


def test_a_blank_before_a_word_is_not_lost() -> None:
    """SentencePiece's decoders drop that of a token decoded alone, and spell unknown characters in bytes."""
    vocabulary = ["▁a", "▁cat", "s", "<0xC3>", "<0xA9>"]
    spoken = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="s"))
    spoken.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=spoken)
    assert list(spelled(tokenizer, [0, 1, 2, 1, 3, 4, 0])) == ["a", " cat", "s", " cat", PART, "é", " a"]


def test_framing_beginning_and_a_doubled_beginning(checkpoint: Path, scenes: Collection) -> None:
    plain, chat = blueprint_of(checkpoint, chat="off"), blueprint_of(checkpoint)
    sample = Sample.of(scenes.pictures[:1], "A cat.", {})
    shown = seen(chat, sample, ("last",))
    assert (shown.templated, shown.turn, shown.bos, shown.warning) == (True, " ASSISTANT:", 1, "")
    assert shown.pieces[0].text == "<s>" and shown.pieces[0].special
    base = seen(plain, sample, ("last",))
    assert (base.templated, base.turn) == (False, "") and base.framing.startswith("no chat template")
    doubled = seen(chat, Sample.of(scenes.pictures[:1], "<s>A cat.", {}), ("last",))
    assert doubled.bos == 2 and doubled.warning == "the text holds <s>, which opens a prompt; remove it from the text"
    for out in (printed([doubled]), page("t", [doubled], Path()).replace("&lt;s&gt;", "<s>")):
        assert doubled.warning in " ".join(out.split())


CHATML = "{{ '<s>system\n...</s>\n' }}" + CHAT.replace("m['role']", "'<s>' + m['role']").replace("' ASS", "'\n<s>ASS")


@pytest.mark.parametrize(
    ("template", "adds", "times", "warned"),
    [
        (CHATML, False, 3, False),
        (CHATML, True, 3, False),  # the tokenizer's stands for the template's first
        (CHAT, True, 1, False),
        ("{{ '<s>' }}" + CHAT, True, 1, False),
        ("{{ '\n<s>' }}" + CHAT, True, 2, True),
        ("{{ '<s><s>' }}" + CHAT, False, 2, True),
        ("{{ '\n<s>' }}" + CHATML, True, 5, True),
    ],
)
def test_a_token_that_opens_every_turn_is_no_doubled_beginning(
    tmp_path: Path, scenes: Collection, template: str, adds: bool, times: int, warned: bool
) -> None:
    """As SmolLM2's template does with <|im_start|>, which is the beginning of a text, too."""
    folder = save_llava(tmp_path)
    make_tokenizer(bos=adds).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template)
    shown = seen(blueprint_of(folder), Sample.of(scenes.pictures[:1], "A cat.", {}), ("last",))
    assert shown.bos == times and shown.warning.startswith("the prompt begins with <s> twice") == warned
    assert bool(shown.warning) == warned


def test_a_language_model_without_picture_tokens(tmp_path: Path, zebra: list[Sample]) -> None:
    shown = seen(blueprint_of(BUILDERS["mllama"](tmp_path)), zebra[0], ("last", "mean_image"))
    assert shown.spots[1].rows == () and "picture towers" in shown.spots[1].said
    assert "picture towers" in printed([shown]) and "picture towers" in page("t", [shown], Path())


TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "section", "article", "h2", "div", "img", "small"}
TAGS |= {"main", "dl", "dt", "dd", "span", "b", "i", "table", "tr", "td"}


class Elements(HTMLParser):
    """Tag names, attribute names and values, and the text that is shown."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.said = ""
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {(name, value or "") for name, value in attrs}

    def handle_data(self, data: str) -> None:
        self.said += data


def test_nothing_in_a_data_file_runs(checkpoint: Path, scenes: Collection) -> None:
    nasty = "<script>alert(1)</script> \" onmouseover=x ' &amp; \x1b[31mred \u202eback"
    decision = Decision("d", "s", "<b>", 1, "g", strata={"<i onclick=x>": "</dd><script>"}, template="<script>")
    blueprint = blueprint_of(checkpoint)
    rendering = Rendering.of(blueprint, Sample.of(scenes.pictures[:1], nasty, {'" onclick="x"><script>': (0, 8)}))
    shown = inspection(rendering, [decision], {"g": "test"}, ["mean_text"], blueprint.anatomy)
    html = Elements(page("<script>", [shown], Path()))
    assert html.tags == TAGS and not any(name.startswith("on") for name, _ in html.attributes)
    assert not any(re.search(r"https?:|//", value) for name, value in html.attributes if name in ("src", "href"))
    assert "<script>alert(1)</script> \" onmouseover=x ' &amp; " in html.said and r"\x1b[31mred \u202eback" in html.said
    for out in (html.said, printed([shown])):
        assert "\x1b" not in out and "\u202e" not in out


def printed(shown: list[Inspection], color_system: str | None = None, width: int = 80) -> str:
    file = io.StringIO()
    terminal = color_system is not None
    print_inspections(shown, Console(file=file, width=width, force_terminal=terminal, color_system=color_system))
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 80])
def test_bars_stand_under_their_tokens_without_colour(
    checkpoint: Path, zebra: list[Sample], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cell of a token has its sign, or the line that a sign began, below it, and no other cell has."""
    shown = seen(blueprint_of(checkpoint), zebra[1], ("mean_text",))
    out = printed([shown], width=width)
    assert "▀" not in out and "\x1b" not in out and max(map(cell_len, out.splitlines())) <= width
    lines = out.splitlines()
    below = ""
    for i, line in enumerate(lines):
        if re.fullmatch("[A─ ]*A[A─ ]*", line):
            assert " " not in line.strip()
            below += "".join(
                c for c, bar in zip(lines[i - 1].ljust(width), line.ljust(width), strict=True) if bar in "A─"
            )
    words = "".join(piece.text.replace(" ", "␣") for piece in shown.pieces if "A" in piece.signs)
    assert below.replace(" ", "") == words
    assert "▀" in printed([shown], "truecolor")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "▀" not in printed([shown], "truecolor")


def test_the_command_needs_no_weights_and_touches_no_cache(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(checkpoint, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    for n in ("1", "2", "2"):
        code, out, err = probe("inspect", *tiny(bare), *QUICK, f"n={n}")
        assert code == 0, err
    assert "2 of 2" in out and "mean_image" in out and "caption: yes" in out and "mark caption" in out
    first, second, again = sorted((tmp_path / "outputs" / "inspect").glob("*/*"))
    assert {"inspect.json", "inspect.html", "config.yaml"} <= {path.name for path in second.iterdir()}
    assert [len(json.loads((f / "inspect.json").read_text())["samples"]) for f in (first, second)] == [1, 2]
    for name in ("inspect.json", "inspect.html"):
        assert (second / name).read_bytes() == (again / name).read_bytes()
    assert [path.name for path in (tmp_path / "outputs" / "cache").iterdir()] == ["digests.json"]


def test_a_run_leaves_the_same_and_a_covered_one_needs_no_processor(
    probe: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = (*tiny(checkpoint), *QUICK)
    assert probe("extract", *args)[0] == 0
    kept = list((tmp_path / "outputs" / "cache").glob("*/renderings/*.json"))
    with monkeypatch.context() as patch:
        patch.setattr("mllm_probe.models.blueprint.Blueprint.__init__", lambda *_: pytest.fail("all is there"))
        assert probe("sweep", *args)[0] == 0
    assert len(kept) == 3 and "all match their manifests" in probe("cache", "verify")[1]
    kept[0].write_text("{")
    kept[1].unlink()
    assert probe("run", *args)[0] == 0
    assert probe("inspect", *args)[0] == 0
    for name in ("inspect.json", "inspect.html"):
        swept, run, inspected = (next((tmp_path / "outputs" / c).rglob(name)) for c in ("sweep", "run", "inspect"))
        assert swept.read_bytes() == run.read_bytes() == inspected.read_bytes()


def test_a_study_shows_both_tasks(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    args = ("experiment=tao2024", "data.n=60", "dataset.pictures=60", "splits.blocks=4", "n=1")
    code, out, err = probe("inspect", *tiny(checkpoint), *args)
    assert code == 0, err
    assert "mark caption" in out and "mark object" in out
    assert len(list((tmp_path / "outputs" / "inspect").rglob("*/*al/inspect.html"))) == 2


def test_bad_input_is_one_sentence(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    args = (*tiny(checkpoint), *QUICK)
    code, _, err = probe("inspect", *args, "n=0")
    assert code == 1 and err.strip() == "mllm-probe: n=0 must be 1 or more: it is how many samples are shown"
    code, _, err = probe("inspect", "model=llava")
    assert code == 1 and "llava-hf/llava-1.5-7b-hf (only its config and processor)" in err and "GB" not in err
    code, _, err = probe("inspect", *args, "extract.positions=[mark:verb]")
    assert code == 1 and "mark 'verb' is not in this task's text; choose one of: caption" in err
    root = coco_folder(tmp_path / "data")
    data = ("task=entailment", "dataset=coco", f"dataset.root={root}", "splits.blocks=2", "sweep.seeds=[0]")
    code, out, err = probe("inspect", *tiny(checkpoint), *data, "n=1000")
    samples = int(re.search(r"(\d+) of \1 samples", err)[1])  # type: ignore[index]
    assert code == 0 and "n=1000 is more than there are, so all are shown" in err and f"{samples} of {samples}" in out
    (root / "images" / "3.png").write_bytes(b"no picture")
    code, _, err = probe("inspect", *tiny(checkpoint), *data)
    assert code == 1 and "3.png" in err and "cannot be decoded" in err


def test_a_checkpoint_fetched_for_a_look_is_not_taken_for_the_whole(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub cache as the hub's client lays it out, without the weights."""
    place = tmp_path / "models--some--model"
    folder = place / "snapshots" / ("0a" * 20)
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(folder.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    settings = ModelSettings(hub_id="some/model")
    assert find_checkpoint(settings, weights=False) == folder
    with pytest.raises(ModelError, match="some/model is on this machine without weights"):
        find_checkpoint(settings)
