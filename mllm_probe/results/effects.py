"""What interventions changed: effects.csv, a row an effect, and effects.safetensors, what each statement answered.

The second is all that the first is made of, so that models can be paired statement by statement. Letters: N statements
(of patching: pairs of prompts), C conditions, K slopes.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe.errors import DataError
from mllm_probe.files.readback import REPEAT, columns, damaged, lines_of, read_table, save_table
from mllm_probe.files.seals import NUMBER, check_sealed
from mllm_probe.files.store_paths import replacing
from mllm_probe.records.interventions import Condition

if TYPE_CHECKING:
    import pandas as pd

KNOCKOUT, PATCHING, STEERING, ERASURE = "knockout", "patching", "steering", "erasure"
RANDOM, CORRECT = "random", "correct"  # the control of drawn conditions; the subset that was answered rightly
DENOISE, NOISE = "denoise", "noise"
ABOVE = "image->behind above"  # of a layer: nothing reads the picture in any higher block
MARGIN, P_CHANGE, FLIPS, RESTORED, SLOPE = "margin", "p_change", "flips", "restored", "slope"
D, KL, ACCURACY_LOSS = "d", "kl", "accuracy_loss"
HEADLINES = {KNOCKOUT: MARGIN, PATCHING: RESTORED, STEERING: SLOPE, ERASURE: ACCURACY_LOSS}  # of a kind


@dataclass(frozen=True)
class Effect:
    """One row of effects.csv; the fields are its columns, in order. Empty: no value.

    `metric`: margin (change of the log-odds of the right answer, nats), p_change (of the probability of the token that
    was likeliest, %), flips (share of answers that change), restored (share of the difference between two prompts),
    slope (nats of log-odds of the first answer word per unit of strength), d (their change, nats), kl (nats, of all
    other tokens), accuracy_loss (share of right answers before minus after). `control` is empty for an effect, `random`
    for the mean of the draws that it is compared with, `control_task` for a direction that knows nothing of the labels.
    `control_value`: that mean, or of a slope the 95 % quantile of the sizes of drawn ones. `p_value` is that of "the
    effect is that of its control" (nothing, where it has none), `p_max_t` the same over all of `family`.
    """

    run: str
    cache: str
    model: str
    revision: str
    quantization: str
    dataset: str
    task: str
    kind: str
    what: str
    direction: str
    site: str
    tower: str
    part: str
    layer: int
    depth: float
    first: int
    last: int
    strength: float | None
    control: str
    subset: str
    metric: str
    n: int
    n_groups: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    ci_level: float | None = None
    control_value: float | None = None
    p_value: float | None = None
    p_max_t: float | None = None
    family: str = ""


FACT = {**dict.fromkeys(("metric", "what", "direction", "largest", "sentence"), str), "shown": bool, "depths": [NUMBER]}
SUMMARY: dict[str, Any] = {  # what is read of summary.json, all of which may lack
    **{name: [str] for name in ("shown", "not_shown", "probe_run")},
    **dict.fromkeys(("measured", "read", "prompts", "answered_rightly", "tests"), int),
    "effects": [FACT],
    "statements": [{**dict.fromkeys(("name", "verdict", "claim", "sentence"), str), "numbers": dict}],
}
COLUMNS = columns(Effect)
TEXTS = tuple(field.name for field in fields(Effect) if field.type is str)
NUMBERS = tuple(name for name in COLUMNS if name not in TEXTS)
WHOLE = ("layer", "first", "last", "n", "n_groups")


def save_effects(path: Path, rows: Iterable[Effect]) -> None:
    save_table(path, COLUMNS, lines_of(rows))


def load_effects(path: Path) -> "pd.DataFrame":
    """Texts are "" and numbers nan where empty. Raises DataError where the file is missing, damaged or without rows."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; name the folder of a finished mllm-probe intervene")
    table = read_table(path, dict.fromkeys(TEXTS, str), dict.fromkeys(NUMBERS, float))
    if table.empty:
        raise damaged(path, "it has no row")
    try:
        return table.astype(dict.fromkeys(WHOLE, int))
    except ValueError as error:
        raise damaged(path, error) from error


@dataclass(frozen=True)
class Slopes:
    """The derivative of d by the strength of steering, nats per unit: `values` [K, N] float32 of conditions [K]."""

    conditions: tuple[Condition, ...]
    values: np.ndarray


@dataclass(frozen=True)
class Sweep:
    """One kind of intervention, as measured. `labels` [N]: 1 where the first answer word is right; `kept` [N]: whether
    the model answers rightly without intervention, or of patching whether a pair counts.

    Of patching a statement is a pair: `clean_d` is that of the prompt whose label `labels` is, `other_d` that of the
    other one, and `groups` are groups of pairs (see `stats.links`). Conditions of `denoise` change the other prompt,
    those of `noise` the clean one. Elsewhere `other_d` is None. `slopes` are of steering alone.
    """

    conditions: tuple[Condition, ...]
    uids: tuple[str, ...]
    groups: np.ndarray  # [N] text
    labels: np.ndarray  # [N] int
    kept: np.ndarray  # [N] bool
    clean_d: np.ndarray  # [N] float32
    clean_p: np.ndarray  # [N] float32
    d: np.ndarray  # [C, N] float32
    p: np.ndarray  # [C, N] float32
    kl: np.ndarray  # [C, N] float32
    other_d: np.ndarray | None = None  # [N] float32
    slopes: Slopes | None = None

    @property
    def kind(self) -> str:
        return self.every[0].kind

    @property
    def every(self) -> tuple[Condition, ...]:
        return (*self.conditions, *(self.slopes.conditions if self.slopes else ()))


FLOATS = {"clean_d": 1, "clean_p": 1, "d": 2, "p": 2, "kl": 2}  # how many axes tensors have; the last is N
TOLD = ("conditions", "slope_conditions", "uids", "groups")


def save_sweep(path: Path, sweep: Sweep) -> None:
    """In one move."""
    from safetensors.numpy import save_file

    names, codes = np.unique(np.asarray(sweep.groups, str), return_inverse=True)
    arrays = {name: np.asarray(getattr(sweep, name), np.float32) for name in FLOATS}
    arrays |= {"labels": sweep.labels.astype(np.int8), "kept": sweep.kept.astype(np.uint8)}
    arrays["group"] = codes.astype(np.int32)
    if sweep.other_d is not None:
        arrays["other_d"] = np.asarray(sweep.other_d, np.float32)
    if sweep.slopes is not None:
        arrays["slope"] = np.asarray(sweep.slopes.values, np.float32)
    slopes = sweep.slopes.conditions if sweep.slopes else ()
    told: dict[str, list[Any]] = {
        "conditions": [asdict(one) for one in sweep.conditions],
        "slope_conditions": [asdict(one) for one in slopes],
    }
    told |= {"uids": list(sweep.uids), "groups": names.tolist()}
    with replacing(path) as part:
        save_file(
            {name: np.ascontiguousarray(one) for name, one in arrays.items()},
            part,
            {name: json.dumps(one) for name, one in told.items()},
        )


def load_sweep(path: Path) -> Sweep:
    """What `save_sweep` wrote. Raises DataError where the file is missing, damaged or of another command."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"{path} does not exist; {REPEAT}")
    try:
        with safe_open(path, framework="np") as file:
            told = {name: json.loads((file.metadata() or {})[name]) for name in TOLD}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        check_sealed(path)
        return _sweep(told, arrays)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise damaged(path, error) from error


def _sweep(told: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Sweep:
    """Raises KeyError, TypeError, ValueError, IndexError for what does not fit together."""
    conditions, slopes = (tuple(Condition(**one) for one in told[name]) for name in TOLD[:2])
    rows, count = len(told["uids"]), {"d": len(conditions), "p": len(conditions), "kl": len(conditions)}
    expected = {name: (count[name], rows) if axes == 2 else (rows,) for name, axes in FLOATS.items()}
    expected |= dict.fromkeys(("labels", "kept", "group"), (rows,))
    expected |= {"other_d": (rows,)} if "other_d" in arrays else {}
    expected |= {"slope": (len(slopes), rows)} if slopes else {}
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has the shape {arrays[name].shape} and not {shape}")
    if not conditions and not slopes:
        raise ValueError("it has no condition")
    return Sweep(
        conditions,
        tuple(told["uids"]),
        np.asarray(told["groups"], str)[arrays["group"]],
        arrays["labels"].astype(int),
        arrays["kept"].astype(bool),
        clean_d=arrays["clean_d"],
        clean_p=arrays["clean_p"],
        d=arrays["d"],
        p=arrays["p"],
        kl=arrays["kl"],
        other_d=arrays.get("other_d"),
        slopes=Slopes(slopes, arrays["slope"]) if slopes else None,
    )
