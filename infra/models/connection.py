"""MLflow's registry and tracking on our PostgreSQL, as one client."""

import os
from functools import cache
from typing import TYPE_CHECKING

from infra import database

if TYPE_CHECKING:
    from mlflow import MlflowClient


@cache
def client() -> "MlflowClient":
    """MLflow's client of the database beside ours, which is made where it is not there."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    database.ensure_database("mlflow")
    from mlflow import MlflowClient

    address = database.url("mlflow", "psycopg")
    return MlflowClient(tracking_uri=address, registry_uri=address)
