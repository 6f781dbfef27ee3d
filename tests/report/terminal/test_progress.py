"""What a terminal shows and what a file gets: curves as bars, memory, colours, quiet and verbose."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mllm_probe.config.verbosity import VARIABLE
from mllm_probe.errors import ConfigError
from mllm_probe.report.tables.curve_shapes import ASCII, BLOCKS, print_curves, sparkline
from mllm_probe.report.terminal import progress as memory
from mllm_probe.report.terminal.progress import RichReporter
from tests.support.runs import QUICK, Run, tiny

COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-8]|4[0-8]|9[0-7])[0-9;]*m")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No word of the machine that the tests run on; what a test sets for itself is unset behind it."""
    for name in ("SLURM_JOB_ID", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(VARIABLE, "normal")
    monkeypatch.setenv("TERM", "xterm-256color")


def shown(steps: int, width: int = 80, total: int = 100) -> str:
    """What a terminal is sent while the first steps of a stage are done."""
    written = io.StringIO()
    with RichReporter(Console(file=written, width=width, force_terminal=True)) as reporter:
        reporter.note("a note")
        for done in range(1, steps + 1):
            reporter.progress("extract", done, total, "samples")
    return written.getvalue()


def test_a_curve_is_a_bar_a_value() -> None:
    assert sparkline([0.5, 0.75, 1.0, 0.5], 0.5, 1.0) == "▁▅█▁"
    assert sparkline(np.linspace(0, 1, 8).tolist(), 0, 1) == BLOCKS
    assert sparkline(np.linspace(0, 1, 8).tolist(), 0, 1, ASCII) == ASCII
    assert sparkline([0.5, 0.5], 0.5, 0.5) == "▁▁"


def test_curves_share_a_scale_and_fit_the_width() -> None:
    curves = {"lm, last": [0.5, 0.75, 1.0], "connector": [0.5], "vision": [0.5, 0.5], "long": [0.5] * 40}

    def lines(width: int, encoding: str = "utf-8") -> list[str]:
        raw = io.BytesIO()
        console = Console(file=io.TextIOWrapper(raw, encoding=encoding, write_through=True), width=width)
        print_curves(curves, "accuracy", console)
        return [line.rstrip() for line in raw.getvalue().decode().splitlines()]

    assert lines(80)[:2] == [
        "lm, last  ▁▅█" + " " * 37 + "  50.0 to 100.0 %",
        "vision    ▁▁" + " " * 38 + "  50.0 to 50.0 %",
    ]
    assert lines(80)[2] == f"long      {40 * '▁'}  50.0 to 50.0 %"
    assert lines(60) == ["lm, last  ▁▅█  50.0 to 100.0 %", "vision    ▁▁   50.0 to 50.0 %"]
    assert lines(60, "ascii")[0] == "lm, last  _=#  50.0 to 100.0 %" and lines(20) == []


def resident() -> tuple[int, int]:
    found = memory.resident()
    assert found is not None
    return found


def test_memory_grows_and_has_a_peak() -> None:
    before, peak = resident()
    assert 1e7 < before <= peak
    held = np.ones(25_000_000)
    now, peak = resident()
    assert now - before > 0.9 * held.nbytes
    del held
    later, kept = resident()
    assert later < now - 1e8 and kept > 0.99 * peak
    assert memory.on_cards() is None and re.fullmatch(r"\d+\.\d GB \(peak \d+\.\d\)", memory.memory())


def test_a_bar_says_stage_rate_time_left_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(50)).splitlines()[-1].split("\r")[-1]
    assert re.fullmatch(
        r"extract ━\S*━ +50/100 samples, [\d.]+/s, left (-:--:--|0:00:\d\d) \d\.\d GB \(peak .*\) *", last
    )
    monkeypatch.setattr(memory, "on_cards", lambda: (5_100_000_000, 6_000_000_000))
    wide, narrow = (re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(50, width)) for width in (120, 60))
    assert re.search(r"GB \(peak \d+\.\d\), CUDA 5\.1 GB \(peak 6\.0\)", wide)
    assert re.search(r"extract ━\S*━ +50/100 samples, [\d.]+/s, left \S+ +\d", narrow), "memory gives way first"


def test_slurm_gets_lines_even_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[?25l" in shown(100), "the cursor is hidden while a bar moves"
    monkeypatch.setenv("SLURM_JOB_ID", "24")
    note, line = shown(100).splitlines()
    assert note == "a note" and re.fullmatch(
        r"extract: 100/100 samples, [\d.]+/s, in 0\.\d s, \d\.\d GB \(peak .*\)", line
    )


def test_lines_say_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllm_probe.report.terminal.progress.PLAIN_EVERY", {"normal": 0.0})
    written = io.StringIO()
    with RichReporter(Console(file=written, width=100)) as reporter:
        for done in (1, 50, 100):
            reporter.progress("sweep", done, 100, "keys")
    first, half, end = written.getvalue().splitlines()
    assert ", left 0:00:00, " in half and ", in 0.0 s, " in end and first.startswith("sweep: 1/100 keys, ")


def test_what_was_there_counts_for_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed stage begins with what is done; its rate and the time left go by what it did itself."""
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("mllm_probe.report.terminal.progress.PLAIN_EVERY", {"normal": 0.0})
    monkeypatch.setattr("mllm_probe.report.terminal.progress.time.monotonic", lambda: float(next(clock)))
    written = io.StringIO()
    with RichReporter(Console(file=written, width=100)) as reporter:
        for done in (900, 920, 1000):
            reporter.progress("extract", done, 1000, "samples")
    first, half, end = written.getvalue().splitlines()
    assert first.startswith("extract: 900/1000 samples, 0.0/s, ")
    assert half.startswith("extract: 920/1000 samples, 0.7/s, left 0:02:00, "), "20 in 30 s"
    assert end.startswith("extract: 1000/1000 samples, 2.0/s, in 50.0 s, "), "100 in 50 s"


def test_no_color_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert COLOUR.search(shown(50))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not COLOUR.search(shown(50)) and "50/100" in shown(50)


def test_quiet_and_verbose(probe: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = probe("run", "-m", "--quiet", *tiny(checkpoint), *QUICK, "data.seed=0")
    assert (code, err) == (0, "") and "HYDRA" not in out and "lm.04.norm" in out
    assert re.search(r"lm, last +[▁▂▃▄▅▆▇█]{2}  ", out)
    assert (Path(out.splitlines()[-1]) / "scores.csv").is_file(), "the last line is the folder"
    code, out, err = probe("--quiet", "run", *tiny(checkpoint), *QUICK, "task=object")
    assert code == 1 and err.startswith("mllm-probe: task=object is unknown") and not out
    code, out, err = probe("extract", *tiny(checkpoint), *QUICK, "--quiet")
    assert (code, err) == (0, "") and (Path(out.strip()) / "status.json").is_file() and len(out.splitlines()) == 1
    code, out, err = probe("extract", *tiny(checkpoint), *QUICK, "--verbose")
    assert not out
    first, *rest = err.splitlines()
    assert code == 0 and re.fullmatch(r"0\.0 s: extract writes to .*/outputs/extract/\S+", first)
    assert rest and all(re.match(r"\d+\.\d s: ", line) for line in rest)
    monkeypatch.setenv(VARIABLE, "loud")
    code, out, err = probe("list", "models")
    assert (code, out) == (
        1,
        "",
    ) and err == f"mllm-probe: {VARIABLE}=loud is unknown; choose one of: normal, quiet, verbose\n"
    with pytest.raises(ConfigError, match="loud is unknown"):
        RichReporter()


def test_the_flags_are_explained_and_do_not_hinder_completion(probe: Run) -> None:
    for args in (("--help",), ("run", "--help"), ("report", "--help")):
        code, out, _ = probe(*args)
        assert code == 0 and "--quiet" in out and "--verbose" in out, args
    line = "mllm-probe run --quiet task=ent"
    environment = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    done = subprocess.run(
        [sys.executable, "-m", "mllm_probe", "-sc", "query=bash"], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["task=entailment"], done.stderr
