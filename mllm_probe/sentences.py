"""Errors as one sentence, whoever raised them. What is no error of the user's keeps its traceback elsewhere."""

import re


def sentence(command: str, error: BaseException) -> str:
    """One sentence for errors of Hydra, OmegaConf and the file system; ours are sentences already."""
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

    from mllm_probe.errors import MllmProbeError, choices

    if isinstance(error, MllmProbeError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if option.startswith("submitit_"):
            return "hydra/launcher=slurm, slurm_cpu and local need submitit: pip install 'mllm-probe[slurm]'"
        if error.options is not None:
            return f"{group}={option} is unknown; {choices(option, error.options)}"
    if isinstance(error, OSError):
        return cannot_use(error, "paths.outputs=FOLDER")
    cause = error.__cause__
    if isinstance(cause, ConfigKeyError | AttributeError) and isinstance(cause, OmegaConfBaseException):
        if str(cause.key) == "seed" and "sweep" in (cause.parent_node or ()):
            return f"'seed' is no setting of `{command}`; sweep.seeds=[3] draws train and validation by seed 3"
        names = [str(name) for name in cause.parent_node or ()]
        return f"'{cause.full_key}' is no setting of `{command}`; {choices(str(cause.key), names)}"
    first = str(error).strip().splitlines()[0]
    if foreign := re.match(r"In '([^']+)': Could not override '([^']+)'", first):
        option = "=".join(foreign[1].rsplit("/", 1))
        return f"{option} sets {foreign[2]}, which `mllm-probe {command}` does not have; it is for another command"
    if first.startswith("Ambiguous value"):
        return f"{first}; add -m to run every combination"
    if isinstance(cause, OmegaConfBaseException) and "is not a ListConfig" in str(cause):
        key = cause.full_key or first.rpartition("'")[2] or "it"
        return f"{key} must be a list in brackets, as layers.range=[4,8] is"
    merged = re.match(r"Error merging override ([^=]+)=", first)
    if merged and str(cause).startswith("Cannot merge DictConfig with"):
        return f"{merged[1]} must be names with values in braces, such as {{name: value}}"
    reason = str(cause).strip().splitlines()[0] if isinstance(cause, OmegaConfBaseException | HydraException) else ""
    return f"{first}: {reason}" if reason else f"{first}; see `mllm-probe {command} --help`"


def cannot_use(error: OSError, setting: str) -> str:
    where = f" {error.filename}" if error.filename else ""
    return f"cannot use{where}: {error.strerror or error}; {setting} names another place for results"


def reason(command: str, error: BaseException) -> str:
    """Why a job failed, for its status.json: also where the fault is ours."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from mllm_probe.errors import MllmProbeError

    if isinstance(error, KeyboardInterrupt):
        return f"stopped by {error or 'Ctrl-C'}; the same command goes on behind the finished shards"
    if isinstance(error, MllmProbeError | HydraException | OmegaConfBaseException | OSError):
        return sentence(command, error)
    first = str(error).strip().partition("\n")[0]
    if type(error).__name__ == "UncompletedJobError":  # submitit's, from within its signal handler
        return f"{first} hydra.launcher.max_num_timeout allows more of them, hydra.launcher.timeout_min longer ones"
    return f"{type(error).__name__}: {first}"
