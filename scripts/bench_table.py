"""What a large table of questions takes before the first forward pass: to inspect it, and to plan its extraction.

    python scripts/bench_table.py --rows 200000       # seconds and memory of both commands

Each command runs in a process of its own on the bundled model; planning ends where the estimate is refused. A table of
few rows says what starting the command takes. Prints one JSON object; docs/scale.md has a table.
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

FEW, PICTURES = 1_000, 500
WORDS = [
    "red",
    "blue",
    "green",
    "circle",
    "square",
    "triangle",
    "big",
    "small",
    "left",
    "right",
    "above",
    "below",
    "near",
    "far",
    "one",
    "two",
    "three",
]
COMMANDS = {"inspect": ("inspect", "n=3"), "plan": ("extract", "extract.max_disk_gb=1e-9")}


def write_table(folder: Path, rows: int) -> None:
    """Questions with an answer by chance about pictures of noise; every text is another one."""
    draw = random.Random(0)
    (folder / "pictures").mkdir()
    for number in range(PICTURES):
        noise = Image.frombytes("RGB", (6, 6), draw.randbytes(108)).resize((48, 48))
        noise.save(folder / "pictures" / f"{number}.png")
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "text", "label"])
        for number in range(rows):
            text = f"There is a {' '.join(draw.choices(WORDS, k=6))} number {number}."
            writer.writerow([f"pictures/{number % PICTURES}.png", text, draw.choice(["yes", "no"])])


def measured(folder: Path, command: Sequence[str]) -> dict[str, float]:
    """Processor seconds of a command about the table in a folder, and the peak of its memory in MB."""
    given = [*command, "dataset=table", "task=custom", "dataset.file=rows.csv", f"dataset.root={folder}"]
    ran = [sys.executable, "-m", "mllm_probe", *given, f"paths.outputs={folder / 'outputs'}"]
    process = subprocess.Popen(ran, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, used = os.wait4(process.pid, 0)
    return {"seconds": round(used.ru_utime + used.ru_stime, 1), "peak_mb": used.ru_maxrss // 1000}


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    given = parser.parse_args(args)
    found: dict[int, dict[str, dict[str, float]]] = {}
    for rows in (FEW, given.rows):
        with TemporaryDirectory() as place:
            write_table(Path(place), rows)
            found[rows] = {name: measured(Path(place), command) for name, command in COMMANDS.items()}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
