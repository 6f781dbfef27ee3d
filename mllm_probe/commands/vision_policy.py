"""`mllm-probe vision policy`: which vision representations to train next, and a simulation where all values are known.

Reads a table, loads no model and trains nothing: a representation counts as trained if its benchmark cell is filled in.
"""

from mllm_probe.config.run import save_config
from mllm_probe.config.vision import VisionPolicyConfig
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import save_rows
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.policy import show_policy
from mllm_probe.results.policy import PlanRow, RecallRow
from mllm_probe.vision.encoder_table import open_table, table_digest, table_name
from mllm_probe.vision.policy_rows import check_policy, planned, recalled


def vision_policy(config: VisionPolicyConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command: policy.csv, recall.csv, figures and a table. Raises ConfigError, DataError."""
    table = open_table(config.fit, reporter)
    check_policy(config.policy, table, reporter)
    where = (table_digest(table, config.fit, config.policy), table_name(config.fit), config.fit.a, config.fit.c)
    plan = [PlanRow(*where, *row) for each in table.benchmarks for row in planned(table, each, config.policy)]
    recall = [RecallRow(*where, *row) for each in table.benchmarks for row in recalled(each, config.policy, reporter)]
    save_rows(paths.policy, PlanRow, plan)
    save_rows(paths.recall, RecallRow, recall)
    save_config(config, paths.config)
    show_policy(paths, reporter)
