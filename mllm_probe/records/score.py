"""One row of scores.csv, the columns of predictions.csv, and the words in both. Knows no way in which values arose."""

from dataclasses import dataclass

ALPHA = 0.05  # of every test, and of the sets that tests make; `ci_level` is of intervals alone
BY_DESIGN = "by design"  # the family of a row whose value can be no other, and the verdict of a test of it
# Columns of predictions.csv: what is known of a decision, and what the probe of a layer and a seed said of it
ASKED = ("decision", "row", "id", "picture", "text", "category", "target", "label", "group")
TOLD = ("position", "site", "seed", "split", "said", "right", "probability", "probability_of_label")
LENS, ZERO_SHOT = "logit_lens", "zero_shot"  # the model's own answers at a block, and at the top
COPY_CEILING = "copy_ceiling"  # what a probe makes of categories whose name in the prompt gives the label away
NOT_APPLICABLE = "not_applicable"  # the metric of a row that says: this control has no such position


@dataclass(frozen=True)
class Score:
    """One row of scores.csv; the fields are its columns, in order. `lambda_` is written as `lambda`.

    `seed` "all" marks the aggregate over seeds, the row that carries an interval. `control` is empty for the real run.
    `headline` marks the measure that selects layers, is tested and is shown.
    """

    run: str
    cache: str
    model: str
    revision: str
    quantization: str
    dataset: str
    task: str
    target: str
    subset: str
    site: str
    tower: str
    layer: int | None
    part: str
    depth: float | None
    position: str
    features: str
    probe: str
    control: str
    train_template: str
    test_template: str
    seed: str
    split: str
    metric: str
    n: int
    n_groups: int
    n_train: int
    lambda_: float | None
    converged: bool | None
    value: float
    low: float | None = None
    high: float | None = None
    ci_level: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    family: str = ""
    headline: bool = False

    @property
    def real(self) -> bool:
        """Of a site as it is: no control, no baseline, nothing added to its rows, the wording it was trained on."""
        own = self.features == "single" and self.train_template == self.test_template
        return bool(self.site) and not self.control and own and self.metric != NOT_APPLICABLE and not self.subset
