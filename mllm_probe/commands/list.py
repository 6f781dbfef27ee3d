"""`mllm-probe list`: the options of conf/, one line each, from their files. Imports no torch and no Hydra."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mllm_probe.errors import ConfigError
from mllm_probe.files.paths import config_dir
from mllm_probe.files.reference import options
from mllm_probe.report.terminal.printing import print_table

GROUPS = ("model", "task", "dataset", "probe", "encoder", "experiment", "target", "intervention")
COMMANDS = {f"{group}s": group for group in GROUPS} | {name: name for name in ("layers", "features")}
COMMANDS |= {"launchers": "hydra/launcher"}


def run(args: Sequence[str]) -> None:
    """The command. Raises ConfigError for a folder of options that does not exist."""
    parser = argparse.ArgumentParser("mllm-probe list", description="What there is to choose from.", allow_abbrev=False)
    parser.add_argument("what", nargs="?", choices=list(COMMANDS), help="one kind of option; all of them without")
    parser.add_argument("--config-dir", metavar="DIR", help="your own groups, as other commands take them")
    given = parser.parse_args(args)
    folders = [config_dir(), *([Path(given.config_dir)] if given.config_dir else [])]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {folder} does not exist; name the folder that holds model/, task/, ...")
    for name in [given.what] if given.what else COMMANDS:
        group = COMMANDS[name]
        print_table(("option", "what it is"), options(group, folders).items(), title=f"{group}=...")
