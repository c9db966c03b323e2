"""Fixtures of a real cluster: SkyPilot, its API server, Slurm, an S3 server and a ledger, all here.

Run apart from the other tests, since SkyPilot reads HOME and its port when it is imported.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import boto3
import psycopg
import pytest

from infra import database as db
from infra import ledger
from infra.compute.sky.launcher import SkyLauncher
from infra.records import runs
from infra.settings import settings
from tasks.runs import offers, reconcile
from tasks.runs.purse import Purse, fill
from tests.cloud.lab import SLURM, free_ports, launcher, queue, stop_api_server
from tests.helpers.s3_server import moto_server

SETTINGS = {
    "NIGHTSHIFT_SKY_POLL_SECONDS": "5",
    "NIGHTSHIFT_SKY_SYNC_SECONDS": "1",
    "NIGHTSHIFT_SKY_CHECKPOINT_SECONDS": "1",
    "NIGHTSHIFT_STOP_GRACE_SECONDS": "2",
    "NIGHTSHIFT_OBJECTS": "s3://nights/root",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
}


@pytest.fixture(scope="session")
def environment() -> Iterator[pytest.MonkeyPatch]:
    """What the cluster's tests set in the environment, until the last has ended."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="session")
def slurm(environment: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a running cluster, which the process's SkyPilot knows as slurm/local."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("a Slurm cluster on one machine needs root and Debian's packages")
    folder = Path(tempfile.mkdtemp(prefix="nightshift-sky-"))
    folder.chmod(0o755)
    port = free_ports(5)
    for name, value in {
        "LAB": folder,
        "LAB_PORT": port,
        "LAB_USER": f"sky{port}",
        "CLIENT_HOME": folder / "home",
        "PYTHON": sys.executable,
    }.items():
        environment.setenv(name, str(value))
    environment.setenv("SLURM_CONF", str(folder / "etc/slurm.conf"))
    environment.setenv("SKYPILOT_API_SERVER_LOCAL_PORT", str(port + 4))
    try:
        subprocess.run([SLURM, "install"], check=True)
        environment.setenv("HOME", str(folder / "home"))
        subprocess.run([SLURM, "up"], check=True)
        yield folder
        stop_api_server()
    finally:
        subprocess.run([SLURM, "down"], check=True)
        subprocess.run(["userdel", f"sky{port}"], check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def store(
    slurm: Path, environment: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """The settings of these tests, their home folder and their bucket."""
    folder = tmp_path_factory.mktemp("store")
    for name, value in SETTINGS.items():
        environment.setenv(name, value)
    environment.setenv("NIGHTSHIFT_HOME", str(folder / "home"))
    environment.setenv("LAB_DENIAL", str(folder / "denied"))
    with moto_server(folder / "log", "tests.cloud.bucket") as url:
        environment.setenv("NIGHTSHIFT_S3_ENDPOINT_URL", url)
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="nights")
        yield


@pytest.fixture(scope="session")
def pool(store: None, environment: pytest.MonkeyPatch, postgres: str) -> Iterator[db.Pool]:
    """The one database of these tests, whose ledger the API server's policy reads."""
    environment.setenv("NIGHTSHIFT_DATABASE_URL", postgres.format("sky"))
    settings.cache_clear()
    yield db.pool()
    db.close()
    with psycopg.connect(postgres.format("postgres"), autocommit=True) as connection:
        connection.execute("DROP DATABASE sky WITH (FORCE)")


@pytest.fixture(scope="session")
def sky(pool: db.Pool) -> SkyLauncher:
    return launcher(pool)


@pytest.fixture
def purse(pool: db.Pool, sky: SkyLauncher, monkeypatch: pytest.MonkeyPatch) -> Iterator[Purse]:
    """Ten dollars for a run of its own; afterwards nothing is reserved and nothing runs."""
    monkeypatch.setattr(offers, "launchers", lambda _target: {"sky": sky})
    run = runs.begin(pool, "test-flow", {"test": os.environ["PYTEST_CURRENT_TEST"]})
    yield fill(Purse(pool, run, "sky"), Decimal(10))
    runs.end(pool, run, "finished")
    reconcile.reconcile(pool, "")
    assert sky.running() == [] and queue() == []
    assert ledger.open_reservations(pool) == []
    assert ledger.audit(pool) == []
