"""H5 of a study: local meaning turns global. Taken from a finished run of task=regions on the same model; judges
nothing that the run has not.
"""

from pathlib import Path

from mllm_probe.errors import ConfigError
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import read_entries
from mllm_probe.results.regions import ALL, LOCALITY, SUMMARY, load_regions
from mllm_probe.scoring.verdicts.hypotheses import HOLDS, UNDECIDED, Statement

CLAIM = "local meaning turns global: tokens far from an object come to know more than half of what its own tokens know"


def regions_paths(folder: str) -> RunPaths:
    """The run that `regions_run` names. Raises ConfigError."""
    paths = RunPaths(Path(folder).expanduser())
    if not (paths.regions.is_file() and paths.summary.is_file()):
        raise ConfigError(f"regions_run={folder} holds no regions.csv; name the folder of a finished run task=regions")
    return paths


def check_regions_run(folder: str, cache: str) -> None:
    """That a run measured the model whose cache this is. Raises ConfigError, DataError."""
    paths = regions_paths(folder)
    load_regions(paths.regions)
    if (found := read_entries(paths.summary, SUMMARY, SUMMARY).get("cache")) != cache:
        raise ConfigError(
            f"regions_run={folder} read another model, or this one with other settings (cache {found}, here {cache}); "
            "name a run with the same model, prompt and extract settings"
        )


def turns_global(folder: str) -> Statement:
    """H5 of a checked folder. Undecided where no layer is surely so: that none is so is not shown. Raises DataError."""
    paths = regions_paths(folder)
    table, summary = load_regions(paths.regions), read_entries(paths.summary, SUMMARY, SUMMARY)
    index = table[(table.metric == LOCALITY) & (table.seed == ALL) & (table.control == "")].set_index("site").value
    said, numbers = next(iter(summary.get("said") or ("no locality index",))), {}
    if site := summary.get("local_turns_global"):
        numbers = {"site": site, "locality": float(index[site])}
    verdict, word = (HOLDS, "holds") if site else (UNDECIDED, "is undecided")
    return Statement("H5", CLAIM, verdict, f"{said}; H5 {word}", numbers, {})
