"""MLflow: ``mlflow.db`` in the run folder, or where ``MLFLOW_TRACKING_URI`` says."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fedkim_core.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

STORE = "mlflow.db"
EXPERIMENT = "fedkim"
BATCH = 1000
"""MLflow takes no more at a time."""


def start(folder: Path) -> "MLflow":
    """Raises UserError: MLflow is not installed."""
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise UserError("MLflow is not installed; install 'fedkim[mlflow]'") from error
    elsewhere = os.environ.get("MLFLOW_TRACKING_URI")
    client = MlflowClient(tracking_uri=elsewhere or f"sqlite:///{folder / STORE}")
    if known := client.get_experiment_by_name(EXPERIMENT):
        experiment = known.experiment_id
        for earlier in client.search_runs([experiment], f'tags.run_folder = "{folder}"'):
            client.delete_run(earlier.info.run_id)
    else:
        # No artefact is ever written; MLflow's default place is the working directory.
        place = None if elsewhere else (folder / "mlflow").as_uri()
        experiment = client.create_experiment(EXPERIMENT, artifact_location=place)
    run = client.create_run(experiment, run_name=folder.name, tags={"run_folder": str(folder)})
    return MLflow(client, run.info.run_id)


class MLflow:
    def __init__(self, client: "MlflowClient", run: str) -> None:
        self._client, self._run = client, run

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, value, now, step) for name, value in values.items()]
        for first in range(0, len(points), BATCH):
            self._client.log_batch(self._run, points[first : first + BATCH])

    def close(self) -> None:
        self._client.set_terminated(self._run)
