"""Files of finished runs that were cut or edited by hand: each command names the file, and none ends in a traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mllm_probe.api import load_cache
from mllm_probe.errors import DataError
from mllm_probe.files.jobs import Job, read, write
from mllm_probe.files.readback import load_rows
from mllm_probe.results.vision import VisionScore
from tests.support.edits import edited, told
from tests.support.runs import QUICK, Run, tiny

NO_OBJECTS = ("", "[]", "null", "3", '"text"', "{", "[" * 100_000, "\x00\xff")


@pytest.fixture
def run(called: Callable[..., Path], checkpoint: Path, tmp_path: Path) -> Path:
    """The folder of a finished run, which may be edited."""
    done = called("run", *tiny(checkpoint), *QUICK, "layers.stride=4", "controls=none", "hydra.run.dir=run")
    return Path(shutil.copytree(done / "run", tmp_path / "run"))


def refused(answer: tuple[int, str, str], said: str) -> None:
    code, _, err = answer
    last = err.strip().splitlines()[-1]
    assert code == 1 and last.startswith("mllm-probe: ") and said in last and "Traceback" not in err, err
    assert last.endswith("repeat the run, its cache is still used")


ADDS = ("tests.csv", "examples.json", "splits.csv", "config.yaml", "fidelity/fidelity.csv", "geometry/geometry.csv")


@pytest.mark.parametrize("name", ["summary.json", "scores.csv"])
def test_report_names_a_file_that_is_none(probe: Run, run: Path, name: str) -> None:
    for text in NO_OBJECTS if name == "summary.json" else ("", "\x00\xff", "{}", "a,b\n1,2\n"):
        (run / name).write_text(text)
        code, _, err = probe("report", "run=run")
        assert code == 1 and f"mllm-probe: run/{name} " in err.strip().splitlines()[-1], (text, err)


@pytest.mark.parametrize("name", ADDS)
def test_report_goes_on_without_what_only_adds_to_the_page(probe: Run, run: Path, name: str) -> None:
    path = run / name
    path.parent.mkdir(exist_ok=True)
    cut = path.read_text()[:-19] if path.exists() else ""
    for text in (cut, "a,b\n1,2\n"):
        path.write_text(text)
        code, _, err = probe("report", "run=run")
        (said,) = (line for line in told(err) if "left out" in line)
        assert code == 0 and f": run/{name} is damaged (" in said, (text, err)
        assert said.endswith("repeat the run, its cache is still used")
        assert f"run/{name} is damaged" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found["shown"][0].update(label="yes"), "its entry 'shown[0].label' is no number"),
        (lambda found: found["shown"][0].update(pictures=[3]), "its entry 'shown[0].pictures[0]' is no object"),
        (lambda found: found.pop("shown"), "it lacks the entry 'shown'"),
    ],
)
def test_report_names_an_entry_of_its_examples(
    probe: Run, run: Path, change: Callable[[dict], object], said: str
) -> None:
    edited(run / "examples.json", change)
    code, _, err = probe("report", "run=run")
    assert code == 0 and f"left out, the examples: run/examples.json is damaged ({said}); repeat" in " ".join(
        err.split()
    )


@pytest.mark.parametrize("name", ["scores.csv", "tests.csv"])
def test_report_names_a_value_of_another_type(probe: Run, run: Path, name: str) -> None:
    path = run / name
    header, first, *rest = path.read_text().splitlines()
    cells = first.split(",")
    cells[header.split(",").index("value")] = "high"
    path.write_text("\n".join([header, ",".join(cells), *rest, ""]))
    code, _, err = probe("report", "run=run")
    assert code == (name == "scores.csv")
    assert f"run/{name} is damaged ('high' in column value is no number)" in " ".join(err.split())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found.update(chosen=[1]), "its entry 'chosen' is no object"),
        (lambda found: found["chosen"].update(last=3), "its entry 'chosen.last' is no object"),
        (lambda found: found["chosen"]["last"].update(value="1.0"), "its entry 'chosen.last.value' is no number"),
        (lambda found: found["chosen"]["last"].update(value=True), "its entry 'chosen.last.value' is no number"),
        (lambda found: found["chosen"]["last"].pop("site"), "it lacks the entry 'chosen.last.site'"),
        (lambda found: found.update(guards="none"), "its entry 'guards' is no list"),
        (lambda found: found.update(remarks={"a": [1]}), "its entry 'remarks.a[0]' is no text"),
        (lambda found: found.update(skipped={"a": 1}), "its entry 'skipped' is no list"),
        (lambda found: found.update(versions=[]), "its entry 'versions' is no object"),
        (lambda found: found.update(unconverged="few"), "its entry 'unconverged' is no whole number"),
        (
            lambda found: found.update(verdicts={"last": {"margin": None}}),
            "its entry 'verdicts.last.margin' is no number",
        ),
        (lambda found: found.update(by_design=["lm.00"]), "its entry 'by_design' is no object"),
        (lambda found: found.update(pictures_in="here"), "its entry 'pictures_in' is no list"),
    ],
)
def test_report_names_an_entry_of_another_type(
    probe: Run, run: Path, change: Callable[[dict], object], said: str
) -> None:
    edited(run / "summary.json", change)
    refused(probe("report", "run=run"), f"run/summary.json is damaged ({said})")


def test_a_table_that_was_cut_is_named_with_the_line(probe: Run, run: Path) -> None:
    path = run / "scores.csv"
    whole = path.read_bytes()
    rows = whole.split(b"\r\n")
    lines, cells = len(rows) - 1, rows[0].count(b",") + 1
    for content, said in (
        (whole[:-20], f"line {lines} has no end"),
        (b"\r\n".join([*rows[:3], rows[3][:20], *rows[4:]]), "line 4 has 2 cells"),
        (b"\r\n".join([*rows[:3], rows[3] + rows[4], *rows[5:]]), f"line 4 has {2 * cells - 1} cells"),
        (b"\r\n".join([*rows[:3], b'"' + rows[3], *rows[4:]]), "line 4 has 1 cell"),
    ):
        path.write_bytes(content)
        refused(probe("report", "run=run"), f"run/scores.csv is damaged ({said}")


def test_settings_that_were_cut_are_named(probe: Run, run: Path, tmp_path: Path) -> None:
    whole = (run / "config.yaml").read_text()
    for number in range(2):
        there = Path(shutil.copytree(run, tmp_path / "runs" / str(number)))
        edited(there / "summary.json", lambda found, number=number: found.update(run=f"{number}"))
    for cut in (whole[: whole.index("plugins")], whole[: whole.index(": [", 40) + 3], whole[:200], "x"):
        (tmp_path / "runs" / "1" / "config.yaml").write_text(cut)
        code, _, err = probe("compare", "runs", "--out", "o", "--anyway")
        assert code == 1 and "mllm-probe: runs/1/config.yaml is damaged (" in err, (cut[-30:], err)


@pytest.mark.parametrize("content", [b"", b"x", b"model: [", b"model: \xf0\x9f", b"- 1\n"])
def test_settings_that_are_none_are_named_by_whatever_reads_them(
    probe: Run, run: Path, tmp_path: Path, content: bytes
) -> None:
    shutil.copytree(run, tmp_path / "twin")
    (run / "config.yaml").write_bytes(content)
    code, _, err = probe("cache", "why", "run", "twin")
    assert code == 1 and "mllm-probe: run/config.yaml is damaged (" in err.strip().splitlines()[-1], err
    with pytest.raises(DataError, match=r"config.yaml is damaged \("):
        load_cache(run)
    (run / "identity.json").write_bytes(content)
    with pytest.raises(DataError, match=r"identity.json is damaged \("):
        load_cache(run)


@pytest.mark.parametrize("entry", ["baselines", "chosen", "verdicts", "versions", "extraction"])
def test_report_survives_entries_that_are_gone_or_strange(probe: Run, run: Path, entry: str) -> None:
    path = run / "summary.json"
    whole = json.loads(path.read_text())
    for content in (
        {name: value for name, value in whole.items() if name != entry},
        whole | {entry: {"last": 3}},
        whole | {entry: {"last": {"site": None}}},
    ):
        path.write_text(json.dumps(content))
        code, _, err = probe("report", "run=run")
        assert "Traceback" not in err and (code == 0 or err.strip().splitlines()[-1].startswith("mllm-probe: ")), err


def test_a_page_says_that_its_command_is_lost(probe: Run, run: Path) -> None:
    for text in NO_OBJECTS:
        (run / "status.json").write_text(text)
    assert probe("report", "run=run")[0] == 0
    assert "unknown: status.json is damaged" in (run / "report.html").read_text()


def test_compare_leaves_out_what_it_cannot_read(probe: Run, run: Path, tmp_path: Path) -> None:
    for number in range(3):
        there = Path(shutil.copytree(run, tmp_path / "runs" / str(number)))
        edited(there / "summary.json", lambda found, number=number: found.update(run=f"{number}"))
    (tmp_path / "runs" / "1" / "summary.json").write_text("[]")
    code, out, err = probe("compare", "runs", "--out", "o", "--anyway")
    assert code == 0, err
    assert "left out: runs/1/summary.json is damaged (it holds a list and no object)" in " ".join(err.split())
    edited(tmp_path / "runs" / "2" / "summary.json", lambda found: found["chosen"].update(last=3))
    code, out, err = probe("compare", "runs", "--out", "p", "--anyway")
    assert code == 1 and not out and "mllm-probe: runs/1/summary.json is damaged" in err


@pytest.mark.parametrize("entry", ["fingerprint", "run", "task", "metric", "chosen", "model", "versions"])
def test_compare_names_an_entry_that_is_gone(probe: Run, run: Path, tmp_path: Path, entry: str) -> None:
    for number in range(2):
        there = Path(shutil.copytree(run, tmp_path / "runs" / str(number)))
        edited(there / "summary.json", lambda found, number=number: found.update(run=f"{number}"))
    edited(tmp_path / "runs" / "1" / "summary.json", lambda found: found.pop(entry))
    code, _, err = probe("compare", "runs", "--out", "o", "--anyway")
    said = f"mllm-probe: runs/1/summary.json lacks the entry '{entry}': it was cut off, edited, or written by an older "
    assert code == 1 and said in err


@pytest.mark.parametrize(
    "change", [{"beat": "soon"}, {"overrides": "x"}, {"pid": None}, {"done": "3"}, {"error": 3}, {"state": "flying"}]
)
def test_status_names_a_record_and_goes_on(probe: Run, tmp_path: Path, change: dict[str, object]) -> None:
    for number in range(2):
        (tmp_path / "jobs" / str(number)).mkdir(parents=True)
        write(
            Job("run", ["a=1"], number, state="done", ended="2026-01-01T00:00:00+00:00"),
            tmp_path / "jobs" / str(number) / "status.json",
        )
    path = tmp_path / "jobs" / "0" / "status.json"
    assert read(Job, path)
    edited(path, lambda found: found.update(change))
    code, out, err = probe("status", "jobs")
    assert code == 0 and "1 job: 1 done" in out and not err
    assert "jobs/0/status.json is damaged, or from another release, and is left out" in out
    (tmp_path / "jobs" / "1" / "status.json").unlink()
    code, out, err = probe("status", "jobs")
    assert code == 1 and "mllm-probe: jobs/0/status.json is damaged, or from another release, and" in err


def test_a_table_of_records_is_read_whole_or_refused(tmp_path: Path) -> None:
    from mllm_probe.errors import DataError

    path = tmp_path / "vision.csv"
    for text in ("", "a,b\n1,2\n", "\x00"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"vision.csv is damaged \("):
            load_rows(path, VisionScore)
