"""MLflow: runs of the experiment `mllm-probe`, in a database under outputs/ or where MLFLOW_TRACKING_URI points."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.loggers.told import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "mllm-probe"
METRICS, PARAMS = 1000, 100  # as many go into one call
LONGEST = 6000  # characters of a param
URI = "MLFLOW_TRACKING_URI"


class MLflow:
    needs = ("mlflow", "sqlalchemy", "alembic")

    def log(self, record: Record) -> str:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # what is logged here is nobody else's business
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table it makes
        outputs = record.outputs
        uri = os.environ.get(URI) or f"sqlite:///{outputs.mlflow.resolve()}"
        with _alone(outputs.mlflow):
            client = MlflowClient(uri)
            run = client.create_run(_experiment(client, outputs.mlruns), run_name=record.name).info.run_id
            status = "FAILED"
            try:
                _fill(client, run, record)
                status = "FINISHED"
            finally:
                client.set_terminated(run, status)
        return f"mlflow ui --backend-store-uri {uri}"


def _fill(client: "MlflowClient", run: str, record: Record) -> None:
    from mlflow.entities import Metric, Param

    now = int(1000 * time.time())
    metrics = [Metric(point.name, point.value, now, point.step) for point in record.points]
    metrics += [Metric(name, value, now, 0) for name, value in record.chosen.items()]
    for at in range(0, len(metrics), METRICS):
        client.log_batch(run, metrics=metrics[at : at + METRICS])
    params = [Param(name, str(value)[:LONGEST]) for name, value in record.settings.items()]
    for at in range(0, len(params), PARAMS):
        client.log_batch(run, params=params[at : at + PARAMS])
    for path in record.figures:
        client.log_artifact(run, str(path))


def _experiment(client: "MlflowClient", artifacts: Path) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return found.experiment_id
    place = None if os.environ.get(URI) else artifacts.resolve().as_uri()  # a server has a place of its own
    return client.create_experiment(EXPERIMENT, artifact_location=place)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time: the jobs of a sweep end together, and each would create the same tables."""
    import fcntl

    with path.with_suffix(".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
