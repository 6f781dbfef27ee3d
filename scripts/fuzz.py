"""Whatever is broken or asked for, is every command's end one sentence or right numbers? Thousands of cases, drawn.

    python scripts/fuzz.py                           # 2,000 cases, less than half an hour of one core
    python scripts/fuzz.py --kinds settings shards   # some kinds only; --cases 50 --seed 3: other cases, fewer
    python scripts/fuzz.py --first 484 --cases 1     # one of them again, by the number that was printed

A case changes one thing of a small experiment that ran before: a setting gets a value of another kind or range; a file
of the checkpoint, a picture, the table of questions, a file of the cache or of a finished run is cut, has a bit or a
letter changed, or holds something else. Then a command runs in this process. Allowed are one sentence and exit code 1,
the numbers of the intact experiment, or others under another digest of the run, which counts whatever can change a
score: the cache's identity, the pictures, the questions and the settings. Anything else is printed with what repeats
it, and the exit code is 1.
"""

import argparse
import dataclasses
import gc
import io
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from random import Random
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image

from mllm_probe.cli import entry as cli
from mllm_probe.config.run import RunConfig
from mllm_probe.files.paths import config_dir

PATIENCE = 60  # seconds of the processor that a case may take
PICTURES = 8
SHOWN = 0.1  # the share of runs that draw figures and write a page; those with a setting of the page all do
DRAWN = ("report.", "paths.")
LONGEST = 3000  # letters of a sentence
OTHERS = ("", "[]", "null", "3", '"text"', "{}", "{", "[" * 9999, "\x00\x01", "a,b\n1,2\n")
WORDS = ("", "x", "-1", "0", "1", "2", "1.5", "1e400", "nan", "inf", "-inf", "null", "true", "[]", "[null]", "[1.5]")
MORE_WORDS = (
    "[x,x]",
    "[0,0]",
    "[[1]]",
    "{a: 1}",
    "é",
    "'[/bold]'",
    "'a b'",
    "../x",
    "99999999999999999999",
    "'='",
    "~",
)
WORDS += MORE_WORDS
# A value may be large and right, and this machine too small for it; where results go is the bench's own
LEFT_ALONE = (
    "plugins",
    "paths.outputs",
    "extract.gpus",
    "extract.workers",
    "extract.wait_s",
    "model.hub_id",
    "loggers",
)
EXPERIMENT = (
    "task=custom",
    "model=custom",
    "model.path=model",
    "model.dtype=float32",
    "model.quantization=none",
    "dataset.root=data",
    "dataset.file=rows.csv",
    "layers.towers=[lm]",
    "layers.stride=4",
    "extract.positions=[last]",
    "splits.blocks=3",
    "sweep.seeds=[0]",
    "sweep.draws=20",
    "sweep.permutations=20",
    "controls=none",
    "guards=note",
)


@dataclass(frozen=True)
class Ended:
    """How a command ended; `trace` is empty unless an exception came out of it."""

    code: int
    out: str
    err: str
    trace: str = ""

    @property
    def sentence(self) -> str:
        lines = self.err.strip().splitlines()
        return lines[-1] if lines else ""


class Bench:
    """A folder with a checkpoint, pictures, a table, and an experiment that ran on them. The working directory."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.folder = folder
        shutil.copytree(checkpoint, folder / "model")
        draw(folder / "data")
        ended = self.run()
        assert ended.code == 0, ended
        self.run_digest, self.scores = told(folder / "run")
        shutil.copytree(folder / "outputs", folder / "whole")

    def run(self, *more: str) -> Ended:
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        return called("run", *EXPERIMENT, "hydra.run.dir=run", *more)

    @contextmanager
    def spoiled(self, path: Path, spoil: Callable[[Path], None]) -> Iterator[None]:
        """A file as `spoil` leaves it, with its old time; then everything as it was."""
        content, seen = path.read_bytes(), path.stat()
        try:
            spoil(path)
            if path.exists():
                os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
            yield
        finally:
            path.write_bytes(content)

    def restore(self) -> None:
        shutil.rmtree(self.folder / "outputs", ignore_errors=True)
        shutil.copytree(self.folder / "whole", self.folder / "outputs")


def draw(folder: Path) -> None:
    """Pictures of several kinds, and two questions about each."""
    folder.mkdir()
    lines = ["picture,text,label"]
    for i in range(PICTURES):
        values = np.random.default_rng(i).integers(0, 256, (24, 24, 3), np.uint8)
        values[: 3 * i] = 0
        name = f"{i}.{'png' if i % 2 else 'jpg'}"
        Image.fromarray(values).save(folder / name)
        lines += [f"{name},is it dark,yes", f"{name},is it light,no"]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")


def told(run: Path) -> tuple[str, bytes]:
    """The digest of a run, and its scores."""
    return json.loads((run / "summary.json").read_text())["run"], (run / "scores.csv").read_bytes()


def called(*args: str) -> Ended:
    """A command in this process."""
    out, err = io.StringIO(), io.StringIO()
    os.environ["HYDRA_FULL_ERROR"] = ""
    before, sys.argv = sys.argv, ["mllm-probe"]
    signal.signal(signal.SIGPROF, _late)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            cli.main(list(args))
        return Ended(0, out.getvalue(), err.getvalue())
    except SystemExit as stop:
        return Ended(int(stop.code or 0), out.getvalue(), err.getvalue())
    except Exception:
        return Ended(-1, out.getvalue(), err.getvalue(), traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.argv = before


def _late(*_: object) -> None:
    raise RuntimeError(f"it took more than {PATIENCE} s")


def spoil(path: Path, rng: Random) -> str:
    """Break a file, and say how."""
    content = bytearray(path.read_bytes())
    how = rng.choice(("cut", "flip", "flip", "flip", "other", "letter", "letter", "grown", "gone"))
    at = rng.randrange(max(1, len(content)))
    if how == "gone":
        path.unlink()
        return how
    if how == "cut":
        content = content[:at]
    elif how == "flip" and content:
        content[at] ^= 1 << rng.randrange(8)
    elif how == "letter" and content:
        content[at : at + rng.randrange(3)] = rng.choice((b"9", b"-", b"x", b'"', b"[", b"\n", b"nan", b"null"))
    elif how == "grown":
        content += bytes(rng.randrange(256) for _ in range(9))
    else:
        content = bytearray(rng.choice(OTHERS).encode())
    path.write_bytes(content)
    return f"{how} at {at}"


def wrong(bench: Bench, ended: Ended) -> str:
    """What is wrong with the end of a run, nothing where it is an allowed one."""
    if found := unclear(ended):
        return found
    if ended.code == 0 and not (bench.folder / "run" / "summary.json").is_file():
        return "no results and no error"
    if ended.code == 0:
        run, scores = told(bench.folder / "run")
        if run == bench.run_digest and scores != bench.scores:
            return "other numbers under the same digest"
    return ""


def unclear(ended: Ended) -> str:
    if ended.trace:
        return ended.trace.strip().splitlines()[-1]
    if "Traceback" in ended.err:
        return "a traceback on the screen"
    if (ended.code and not ended.sentence.startswith("mllm-probe: ")) or len(ended.sentence) > LONGEST:
        return f"no sentence: {ended.sentence[:200]!r}"
    return "a Python warning on the screen" if "Warning:" in ended.err else ""


def settings(bench: Bench, rng: Random) -> tuple[str, str]:
    """A setting of a value that it may not be made for."""
    word = f"{rng.choice(SETTINGS)}={rng.choice(WORDS)}"
    with shown(word.startswith(DRAWN) or rng.random() < SHOWN):
        return word, wrong(bench, bench.run(word))


def shown(really: bool) -> AbstractContextManager[object]:
    """Whether runs draw figures and write a page, which is most of their time."""
    return nullcontext() if really else patch("mllm_probe.commands.run.show")


def files(folder: str, pattern: str) -> Callable[[Bench, Random], tuple[str, str]]:
    """Run with a file broken."""

    def case(bench: Bench, rng: Random) -> tuple[str, str]:
        path = rng.choice(sorted(p for p in (bench.folder / folder).rglob(pattern) if p.is_file()))
        said: list[str] = []
        words = ("data.on_bad_row=skip",) if rng.random() < 0.2 else ()
        with bench.spoiled(path, lambda path: said.append(spoil(path, rng))), shown(rng.random() < SHOWN):
            found = wrong(bench, bench.run(*words))
        if folder == "outputs":
            bench.restore()
        return f"{path.relative_to(bench.folder)}: {said[0]}", found

    return case


COMMANDS = (
    ("report", "run=run"),
    ("compare", "run", "twin", "--out", "compared"),
    ("status", "run", "twin"),
    ("cache", "why", "run", "twin"),
    ("cache", "ls"),
    ("cache", "verify"),
    ("cache", "prune", "--damaged"),
)


def results(bench: Bench, rng: Random) -> tuple[str, str]:
    """A command that reads a finished run, or the caches, some file of which is broken."""
    args = rng.choice(COMMANDS)
    if not (bench.folder / "twin").exists():
        bench.run("sweep.seeds=[1]")
        shutil.copytree(bench.folder / "run", bench.folder / "twin")
    shutil.rmtree(bench.folder / "run", ignore_errors=True)
    shutil.copytree(bench.folder / "twin", bench.folder / "run")
    root = bench.folder / ("outputs/cache" if (len(args) == 2 and args[0] == "cache") or "prune" in args else "run")
    path = rng.choice(sorted(p for p in root.rglob("*") if p.suffix in (".json", ".csv", ".yaml", ".safetensors")))
    said: list[str] = []
    with bench.spoiled(path, lambda path: said.append(spoil(path, rng))):
        found = unclear(called(*args))
    return f"{' '.join(args)}; {path.relative_to(bench.folder)}: {said[0]}", found


def named(kind: type, before: str = "") -> Iterator[str]:
    """The dotted names of all settings, and of those that the experiment's options bring."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from named(hints[field.name], f"{before}{field.name}.")
        else:
            yield f"{before}{field.name}"


OPTIONS = (
    "dataset.pictures",
    "dataset.file",
    "task.template",
    "task.kind",
    "task.positive",
    "task.target",
    "task.name",
)
OPTIONS += ("task.covariates", "dataset.name", "dataset.root", "probe.strengths", "~sweep", "~layers")
SETTINGS = sorted({*named(RunConfig), *OPTIONS} - {*LEFT_ALONE})
KINDS: dict[str, Callable[[Bench, Random], tuple[str, str]]] = {
    "settings": settings,
    "checkpoint": files("model", "*"),
    "pictures": files("data", "*.??g"),
    "table": files("data", "*.csv"),
    "shards": files("outputs", "*.safetensors"),
    "caches": files("outputs", "*.json"),
    "runs": results,
}


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first one, to repeat it or to go on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--checkpoint", type=Path, help="a small one; else the bundled model")
    given = parser.parse_args(args)
    checkpoint = given.checkpoint or config_dir().parent / "mllm_probe" / "bundled" / "mini"
    there, bad, started = Path.cwd(), 0, time.process_time()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            bench = Bench(Path(folder).resolve(), checkpoint.resolve())
            gc.freeze()  # what is imported stays
            for number in range(given.first, given.first + given.cases):
                kind, rng = given.kinds[number % len(given.kinds)], Random(f"{given.seed} {number}")
                case, found = KINDS[kind](bench, rng)
                if found:
                    bad += 1
                    print(f"{kind} {number}: {case}: {found}", flush=True)
                if (done := number + 1 - given.first) % 100 == 0:
                    print(f"{done} of {given.cases}, {time.process_time() - started:.0f} s", file=sys.stderr)
        finally:
            os.chdir(there)
            logging.disable(logging.NOTSET)
    print(f"{given.cases} cases in {time.process_time() - started:.0f} s of CPU, {bad} neither a sentence nor right")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
