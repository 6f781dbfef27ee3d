"""The rows of policy.csv and recall.csv."""

from dataclasses import dataclass

READINGS = FIRST_HIT, FIXED, RANDOM, A_ALONE, A_PLUS_C = "first_hit", "fixed_budget", "random", "a_alone", "a_plus_c"


@dataclass(frozen=True)
class PlanRow:
    """One representation on one benchmark; a row of policy.csv.

    `turn` is its place among those the policy drew, at `level` of the lattice, and empty where it was not drawn;
    `predicted` is the law fitted to those `seen`, in the benchmark's own unit; `shortlisted` are the first of these.
    """

    run: str
    table: str
    a_column: str
    c_column: str
    benchmark: str
    representation: str
    a: float
    c: float
    unit_a: float
    unit_c: float
    value: float
    turn: float
    level: float
    predicted: float
    seen: bool
    shortlisted: bool


@dataclass(frozen=True)
class RecallRow:
    """How often the best representation is found; a row of recall.csv.

    `reading`: `fixed_budget`, it is in the shortlist after `budget` runs; `first_hit`, it was so after these or fewer,
    which takes somebody who knows the best to say when to stop; `random`, it is among as many drawn at random as the
    policy trains and lists; `a_alone` and `a_plus_c`, it is in the shortlist by a score that needs no run. `recall` is
    a share of `trials`, or exact where these are 0.
    """

    run: str
    table: str
    a_column: str
    c_column: str
    benchmark: str
    reading: str
    budget: int
    recall: float
    trials: int
