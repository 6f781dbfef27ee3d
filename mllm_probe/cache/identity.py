"""Whose activations these are: everything that could change a stored number. Knows no model code.

What is requested belongs here (files, quantisation asked for, dtypes, prompt wrapping); what was found at load time
(device, versions, modules really quantised) is provenance and lives in the manifest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_probe.files.digests import Digests
from mllm_probe.files.model_names import ORIGIN
from mllm_probe.records.samples import digest

LAYERS = "0 = input of block 1; k = output of block k; norm = after the final norm"  # the convention, spelled out
FORMAT = 2  # of the shards and their index
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
READ = (*WEIGHTS, ".json", ".jinja", ".model", ".tiktoken", "vocab.txt", "merges.txt", "dict.txt")  # at the top
TEMPLATES = "additional_chat_templates"  # the one folder below that transformers looks into


@dataclass(frozen=True)
class Identity:
    """The fields and their digest, which names the cache's folder."""

    fields: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return digest(self.fields)

    def to_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "fields": dict(self.fields)}


def folder_digests(folder: Path, digests: Digests) -> dict[str, str]:
    """{file name: content digest} of the files of a checkpoint that a loader reads: weights, processor and templates
    alike. Code that it brings may read any file, and a pipeline has its parts in folders, so there all of them count.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    names = {str(path.relative_to(folder)): path for path in files if path.suffix != ".md"}
    if "model_index.json" not in names and not any(name.endswith(".py") for name in names):
        names = {name: path for name, path in names.items() if _is_read(path, folder)}
    return {name: digests.of(path) for name, path in names.items()}


def _is_read(path: Path, folder: Path) -> bool:
    return path.parent in (folder, folder / TEMPLATES) and path.name.endswith(READ) and path.name != ORIGIN


def weights_digest(files: Mapping[str, str]) -> str:
    """Of the weights alone, from all file digests of a checkpoint."""
    return digest({name: value for name, value in files.items() if name.endswith(WEIGHTS)})


def identify(files: Mapping[str, str], **requested: Any) -> Identity:
    """Identity from the checkpoint's file digests and the requested settings.

    With `weights` = "random" the weight files do not count, the seed in `requested` does.
    """
    if requested.get("weights") == "random":
        files = {name: value for name, value in files.items() if not name.endswith(WEIGHTS)}
    return Identity({"files": dict(files), "layers": LAYERS, "format": FORMAT, **requested})


def plan_digest(plan: Mapping[str, Any]) -> str:
    """The name of a plan's group, from its JSON; the prompts in it are for readers and decide nothing."""
    return digest({name: value for name, value in plan.items() if name != "prompts"})
