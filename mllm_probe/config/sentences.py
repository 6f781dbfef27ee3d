"""Errors as one sentence, from any source, and settings as one would type them, by dotted names.

What is no error of the user's keeps its traceback elsewhere.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "one text", NoneType: "null"}
LISTED = "a list in brackets"
MAPPED = "names with values in braces, such as {name: value}"
GROUPED = "settings, each by its own name after a dot"
LISTS = {  # of two, where others may hold one
    "layers.range": "[4,8]",
    "report.size": "[7,4]",
    "geometry.across": "[[last,mean_image]]",
}
WANTED = {  # what OmegaConf says, in part, and what was wanted
    "to Integer|subclass of int|of type 'int'": TYPES[int],
    "to Float|subclass of float|of type 'float'": TYPES[float],
    "valid bool": TYPES[bool],
    "to string|subclass of str|of type 'str'": TYPES[str],
    "is not a subclass of": GROUPED,
    "Cannot assign": MAPPED,
}


def sentence(command: str, error: BaseException) -> str:
    """One sentence for errors of Hydra, OmegaConf and the file system; ours are sentences already."""
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import ConfigKeyError, InterpolationResolutionError, OmegaConfBaseException

    from mllm_probe.errors import MllmProbeError, choices, first_line

    if isinstance(error, MllmProbeError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _no_option(command, error)
    if isinstance(error, InterpolationResolutionError):
        return f"{error.full_key} cannot be filled in ({first_line(error)}); ${{NAME}} stands for another setting"
    if isinstance(error, OSError):
        return cannot_use(error, "paths.outputs=FOLDER")
    if isinstance(error, TypeError | ValueError):  # Hydra's, of what stands where the name of an option should
        return "a group takes the name of an option, and its settings have a dot, such as layers.range=[4,8]"
    cause = error.__cause__
    if isinstance(cause, ConfigKeyError | AttributeError) and isinstance(cause, OmegaConfBaseException):
        if str(cause.key) == "seed" and "sweep" in (cause.parent_node or ()):
            return f"'seed' is no setting of `{command}`; sweep.seeds=[3] draws train and validation by seed 3"
        names = [str(name) for name in cause.parent_node or ()]
        return f"'{cause.full_key}' is no setting of `{command}`; {choices(str(cause.key), names)}"
    first = first_line(error)
    if foreign := re.match(r"In '([^']+)': Could not override '([^']+)'", first):
        option = "=".join(foreign[1].rsplit("/", 1))
        return f"{option} sets {foreign[2]}, which `mllm-probe {command}` does not have; it is for another command"
    if first.startswith("Ambiguous value"):
        return f"{first}; add -m to run every combination"
    if torn := re.match(r"Error parsing override '(.*)'$", first):
        return f"'{torn[1]}' cannot be read; write NAME=VALUE"
    if gone := re.match(r"Error merging override ~([\w.]+)|Could not delete from config. '([\w.]+)' does not", first):
        return f"'{gone[1] or gone[2]}' cannot be removed with ~; leave that word out"
    merged = re.match(r"Error merging override \+*([\w.@/]+)=(.*)", first)
    if merged and (wanted := _wanted(merged[1], merged[2], cause)):
        return wanted
    reason = first_line(cause) if isinstance(cause, OmegaConfBaseException | HydraException) else ""
    return f"{first}: {reason}" if reason else f"{first}; see `mllm-probe {command} --help`"


def _no_option(command: str, error: Any) -> str:
    from mllm_probe.errors import choices

    named = error.missing_cfg_file or re.sub(r".*Could not load '([^']+)'.*", r"\1", str(error), flags=re.DOTALL)
    group, _, option = str(named).rpartition("/")
    if option.startswith("submitit_"):
        return "hydra/launcher=slurm, slurm_cpu and local need submitit: pip install 'mllm-probe[slurm]'"
    if error.options is None:
        return f"{group} names '{option}', which is unknown; `mllm-probe {command} --help` lists what there is"
    return f"{group}={option} is unknown; {choices(option, error.options)}"


def _wanted(key: str, value: str, cause: Any) -> str:
    """What a setting of another type must be, "" where OmegaConf's words are not known."""
    said, declared = str(cause).partition("\n")[0], _declared(cause)
    kind, untold = get_origin(declared) or declared, said.startswith("Cannot merge") or "is not Optional" in said
    if "is not a ListConfig" in said or (kind is list and untold):
        return f"{key}={value} must be {LISTED}, such as {key}={_listed(key, value, declared)}"
    wanted = next((wanted for words, wanted in WANTED.items() if re.search(words, said)), "")
    if untold:
        wanted = TYPES.get(kind, GROUPED if is_dataclass(kind) else MAPPED)
    each = "each of " if "[" in str(getattr(cause, "full_key", "")) else ""
    return f"{each}{key}={value} must be {wanted}" if wanted else ""


def _declared(cause: Any) -> Any:
    """The type of the setting, beside null."""
    owner, hint = cause.object_type, cause.ref_type
    if str(cause).startswith("Cannot merge"):  # told of the setting itself, else of what holds it
        hint = owner if hint in (None, Any) else hint
    elif is_dataclass(owner):
        hint = get_type_hints(owner).get(cause.full_key.rpartition(".")[2])
    else:
        hint = next(reversed(get_args(hint)), None)
    return next((one for one in get_args(hint) if one is not NoneType), hint) if NoneType in get_args(hint) else hint


def _listed(key: str, value: str, declared: Any) -> str:
    """The value as a list that the setting takes, or another where it cannot be one of its items."""
    if key in LISTS:
        return LISTS[key]
    item = get_args(declared)[0] if get_origin(declared) is list else str
    if item in (int, float):
        return f"[{value}]" if re.fullmatch(r"-?\d+", value) else "[3]"
    name = value if re.fullmatch(r"[\w.:-]+", value) and value != "null" else "a,b"
    return f"[{name}]"


def cannot_use(error: OSError, setting: str) -> str:
    where = f" {error.filename}" if error.filename else ""
    return f"cannot use{where}: {error.strerror or error}; {setting} names another place for results"


def kept(command: str) -> str:
    """What a stopped command leaves to continue with."""
    what = "the state that train.save_every saved last is" if command == "tune" else "finished shards are"
    return f"{what} kept, repeat the command to continue"


def reason(command: str, error: BaseException) -> str:
    """Why a job failed, for its status.json: also where the fault is ours."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from mllm_probe.errors import MllmProbeError, first_line

    if isinstance(error, KeyboardInterrupt):
        return f"stopped by {str(error) or 'Ctrl-C'}; {kept(command)}"
    if isinstance(error, MllmProbeError | HydraException | OmegaConfBaseException | OSError):
        return sentence(command, error)
    first = first_line(error)
    if type(error).__name__ == "UncompletedJobError":  # submitit's, from within its signal handler
        return f"{first} hydra.launcher.max_num_timeout allows more of them, hydra.launcher.timeout_min longer ones"
    return f"{type(error).__name__}: {first}"


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    found: dict[str, Any] = {}
    for name, value in node.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def show(value: Any) -> str:
    """A setting as one would type it."""
    if isinstance(value, list):
        return f"[{','.join(map(show, value))}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def quoted(text: str) -> str:
    """A value as Hydra's grammar takes it, whatever characters it has: backslashes count before a quote alone."""
    text = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return f"'{text}'"
