"""Train four connectors with several seeds, probe each, and print one table (Dense Connector, Yao et al. 2024).

    python scripts/compare_connectors.py --out outputs/connectors              # mini on drawn scenes
    python scripts/compare_connectors.py --out ... model=llava dataset=coco dataset.root=COCO

What else is given goes to `mllm-probe tune` and `run` alike. What is there already is not done again, so a killed
comparison goes on. Intervals are over test pictures, means over seeds.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from mllm_probe.features.recipes import KINDS, MLP
from mllm_probe.results.score_file import load_scores
from mllm_probe.stats.bootstrap import Resamples, interval
from mllm_probe.stats.paired import difference

RUN = ("task=entailment", "layers.towers=[lm]", "extract.positions=[last]", "controls=none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("settings", nargs="*", help="for both commands, such as dataset.pictures=2000")
    args = parser.parse_args()
    arms = {kind: [_arm(args, kind, seed) for seed in range(args.seeds)] for kind in KINDS}
    print(_table(arms).to_string(index=False))


def _arm(args: argparse.Namespace, kind: str, seed: int) -> Path:
    """The folder of one training and of the run that probes it."""
    folder = args.out / f"{kind}-{seed}"
    train = (f"connector={kind}", f"train.seed={seed}", f"train.steps={args.steps}", f"train.batch={args.batch}")
    _once(folder / "tune", "tune", *train, f"train.micro_batch={args.batch}", *args.settings)
    model = ("model=custom", f"model.path={folder / 'tune' / 'checkpoint'}", "model.dtype=float32")
    _once(folder / "run", "run", *RUN, *(one for one in args.settings if not one.startswith("model")), *model)
    return folder


def _once(folder: Path, command: str, *settings: str) -> None:
    if not (folder / "summary.json").exists():
        where = f"hydra.run.dir={folder.resolve()}"
        subprocess.run([sys.executable, "-m", "mllm_probe", command, *settings, where], check=True)


def _table(arms: dict[str, list[Path]]) -> pd.DataFrame:
    base = _held_out(arms[MLP])
    return pd.DataFrame([_row(kind, folders, base) for kind, folders in arms.items()])


def _row(kind: str, folders: list[Path], base: pd.DataFrame) -> dict[str, str]:
    held = _held_out(folders)
    draws = Resamples(held.picture.to_numpy())
    gap = difference(held.nats.to_numpy(), base.nats.to_numpy(), draws)
    curves = pd.concat([load_scores(folder / "run" / "scores.csv") for folder in folders])
    curves = curves[(curves.metric == "accuracy") & (curves.seed == "all") & (curves.split == "test")]
    said = curves[curves.control == "zero_shot"].value
    probed = curves[(curves.probe == "logistic") & (curves.position == "last") & (curves.part == "block")]
    best = [json.loads((f / "run" / "summary.json").read_text())["chosen"]["last"] for f in folders]
    return {
        "connector": kind,
        "nats a caption": _text(
            held.nats.mean(), interval(draws.ratios(held.nats.to_numpy()[:, None])[:, 0], draws.size)
        ),
        "minus mlp": "" if kind == MLP else f"{_text(gap.value, np.asarray([gap.low, gap.high]))} p={gap.p:.2g}",
        "zero-shot %": " ".join(f"{100 * value:.1f}" for value in said),
        "probe, chosen on validation, %": " ".join(f"{100 * one['value']:.1f} ({one['site']})" for one in best),
        "probe, mean over layers %": f"{100 * probed.value.mean():.1f}",
    }


def _held_out(folders: list[Path]) -> pd.DataFrame:
    """The nats of each caption of a test picture, the mean over seeds."""
    tables = [pd.read_csv(folder / "tune" / "held_out.csv") for folder in folders]
    return tables[0].assign(nats=np.mean([table.loss for table in tables], axis=0))


def _text(value: float, bounds: np.ndarray) -> str:
    return f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"


if __name__ == "__main__":
    main()
