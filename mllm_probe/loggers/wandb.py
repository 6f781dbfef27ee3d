"""Weights & Biases: one of its runs a run, in the folder `wandb` of the run.

Nothing leaves the machine unless WANDB_MODE=online says so; `wandb sync` sends what lies there later.
"""

import os
from typing import Any

from mllm_probe.loggers.told import Record

PROJECT = "mllm-probe"


class WandB:
    needs = ("wandb",)

    def log(self, record: Record) -> str:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it would go over the network in offline mode, too
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=record.name,
            config=record.settings,
            dir=str(record.paths.root),
            mode=mode,
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        with run:
            steps: dict[int, dict[str, float]] = {}
            for point in record.points:
                steps.setdefault(point.step, {})[point.name] = point.value
            for step, values in sorted(steps.items()):  # W&B drops a step that is lower than the last
                run.log(values, step=step)
            run.log({path.stem: wandb.Image(str(path)) for path in record.figures}, step=max(steps))
            run.summary.update(record.chosen)
        return str(run.url) if mode == "online" else f"wandb sync {record.paths.logged('wandb')}/offline-run-*"
