"""`mllm-probe check FILE`: how a run would read your table of questions, or a folder in COCO's layout.

Reads it with the code of a run, so the two cannot differ. Loads no model and writes nothing.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mllm_probe.config.compose import composed
from mllm_probe.config.run import sides_of
from mllm_probe.data.readers import READERS
from mllm_probe.errors import DataError
from mllm_probe.experiment.data_check import facts
from mllm_probe.experiment.data_check.facts import Fact
from mllm_probe.experiment.data_check.verdict import checked
from mllm_probe.report.terminal.printing import print_table

PLACE = "FILE"
FOLDERS = ("images", "pictures", "img", "photos")  # looked for beside a table


def run(args: Sequence[str]) -> None:
    """The command; exits with 1 where a run would refuse the data, or would stop at a bad row."""
    parser = argparse.ArgumentParser("mllm-probe check", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("place", metavar=PLACE, help=f"a table ({', '.join(READERS)}), or a folder in COCO's layout")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of the run, as task.kind=classes")
    given = parser.parse_args(args)
    own = _words(Path(given.place))
    config = composed("run", [*own, f"data.n={facts.OPENED}", *given.settings])
    told: list[Fact] = []
    refused = {}
    for side in (config,) if config.local is None else sides_of(config):
        found = checked(Path(given.place), side)
        told += [fact for fact in found.facts if fact not in told]
        refused[found.task] = found.refusal
    print_table(("what", "found"), told)
    if all(refused.values()):
        raise DataError("; ".join(dict.fromkeys(refused.values())))
    alone = [f"task={task}" for task, why in refused.items() if not why] if any(refused.values()) else []
    for task, why in refused.items():
        if why:
            print(f"not for task={task}: {why}")
    print(f"a run can use it: {shlex.join(['mllm-probe', 'run', *alone, *own, *given.settings])}")
    sys.stdout.flush()


def _words(place: Path) -> list[str]:
    """The settings that name the data."""
    if place.is_dir():
        return ["dataset=coco", f"dataset.root={place}"]
    words = ["task=custom", "dataset=table", f"dataset.root={place.parent}", f"dataset.file={place.name}"]
    folder = next((name for name in FOLDERS if (place.parent / name).is_dir()), None)
    return [*words, f"dataset.pictures={folder}"] if folder else words
