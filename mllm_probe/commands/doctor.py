"""`mllm-probe doctor`: what a run needs of this machine, what is there, and what fixes the rest. Loads no model."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mllm_probe.machine.cards import cards
from mllm_probe.machine.findings import PROBLEM
from mllm_probe.machine.hub import hub
from mllm_probe.machine.packages import packages
from mllm_probe.machine.resources import disk, memory_and_cores, slurm
from mllm_probe.report.terminal.printing import print_table


def run(args: Sequence[str]) -> None:
    """The command; exits with 1 where something keeps every run from working."""
    parser = argparse.ArgumentParser("mllm-probe doctor", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--outputs", default="outputs", metavar="FOLDER", help="paths.outputs of the runs")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    given = parser.parse_args(args)
    found = [*packages(), *cards(), disk(Path(given.outputs)), *memory_and_cores(), slurm(), *hub()]
    if given.json:
        print(json.dumps([asdict(finding) for finding in found], indent=1))
    else:
        rows = [(finding.mark, finding.what, finding.found, finding.remedy) for finding in found]
        print_table(("", "what", "found", "what fixes it"), rows)
    sys.stdout.flush()
    if any(finding.mark == PROBLEM for finding in found):
        sys.exit(1)
