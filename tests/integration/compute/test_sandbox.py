"""The sandbox of jobs on this machine, with a job that looks for what is not its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.compute import reach
from infra.errors import LaunchError
from infra.objects import put
from infra.settings import settings
from tests.helpers.launching import alive, job, launcher, money, wait, wait_until_none_is_alive

needs_sandbox = pytest.mark.skipif(
    reach.unavailable() is not None, reason=f"no sandbox here: {reach.unavailable()}"
)
OWN = {"network", "input"}
"""What a job may reach."""


@pytest.fixture
def user(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of a user with a key, and a process with the database's URL."""
    folder = tmp_path / "user"
    (folder / ".ssh").mkdir(parents=True)
    (folder / ".ssh" / "id_ed25519").write_text("key")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/passwd")  # in a folder that cannot be written
    (home / "postgres").mkdir(parents=True)
    (home / "postgres" / "passfile").write_text("*:*:*:nightshift:hunter2")
    return folder


@contextlib.contextmanager
def listening(family: socket.AddressFamily, address: str | tuple[str, int]) -> Iterator[int]:
    with socket.socket(family) as door:
        door.bind(address)
        door.listen()
        yield door.getsockname()[1] if family == socket.AF_INET else 0


def found_by_spy(home: Path, user: Path) -> set[str]:
    """What a job got hold of that looks everywhere."""
    environment = {"NIGHTSHIFT_DATABASE_URL": "postgresql://u:hunter2@h/d"}
    with (
        subprocess.Popen(["sleep", "60"], env=environment) as other,
        listening(socket.AF_UNIX, str(home / "postgres" / ".s.PGSQL.5432")),
        listening(socket.AF_INET, ("127.0.0.1", 0)) as port,
    ):
        given = put(user / ".ssh", f"{home.as_uri()}/objects/given")
        strange = put(user / ".ssh", f"{home.as_uri()}/objects/strange")
        spec = job(
            home,
            port=port,
            sockets={"postgres": str(home / "postgres" / ".s.PGSQL.5432")},
            files={
                "key": str(user / ".ssh" / "id_ed25519"),
                "passfile": str(home / "postgres" / "passfile"),
                "input": f"{given.uri.removeprefix('file://')}/manifest.json",
                "object": f"{strange.uri.removeprefix('file://')}/manifest.json",
            },
        ).model_copy(update={"name": "basic.spy", "inputs": {"given": given.uri}})
        local = launcher(home)
        handle = local.launch(spec, money())
        status = wait(local, handle)
        other.kill()
    assert status.result, list(local.logs(handle))
    wait_until_none_is_alive(home)
    return {name for name, got in status.result.metrics.items() if got}


@needs_sandbox
def test_a_job_reaches_only_what_is_its_own(home: Path, user: Path) -> None:
    assert found_by_spy(home, user) == OWN


@needs_sandbox
def test_a_job_without_a_network(home: Path, user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_LOCAL_NETWORK", "false")
    settings.cache_clear()
    assert found_by_spy(home, user) == OWN - {"network"}


@needs_sandbox
def test_a_job_writes_into_the_folders_that_it_was_given(home: Path, user: Path) -> None:
    given, other = user / "given", user / "other"
    given.mkdir()
    other.mkdir()
    shell = f"touch {given}/there; touch {other}/there"
    spec = job(home, steps=20, shell=shell).model_copy(update={"writes": [str(given)]})
    local = launcher(home)
    wait(local, local.launch(spec, money()))
    assert (given / "there").exists() and not (other / "there").exists()
    wait_until_none_is_alive(home)


def test_without_a_sandbox_a_job_reaches_what_its_user_does(
    home: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is why there is one: what the job above looks for is there to be found."""
    monkeypatch.setenv("NIGHTSHIFT_LOCAL_SANDBOX", "off")
    settings.cache_clear()
    everything = {"environment", "key", "passfile", "postgres", "object", "log", "record", "order"}
    assert found_by_spy(home, user) >= OWN | everything


def test_no_network_is_refused_where_it_cannot_be_had(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_LOCAL_NETWORK", "false")
    monkeypatch.setenv("NIGHTSHIFT_LOCAL_SANDBOX", "off")
    settings.cache_clear()
    with pytest.raises(LaunchError, match="have no sandbox: NIGHTSHIFT_LOCAL_SANDBOX is off"):
        launcher(home).quotes(job(home).resources)
    monkeypatch.setenv("NIGHTSHIFT_LOCAL_SANDBOX", "auto")
    monkeypatch.setenv("NIGHTSHIFT_OBJECTS", "s3://bucket/root")
    monkeypatch.setattr(reach, "unavailable", lambda: None)
    settings.cache_clear()
    with pytest.raises(LaunchError, match="NIGHTSHIFT_OBJECTS is a bucket"):
        launcher(home).quotes(job(home).resources)


def test_where_there_is_no_sandbox_jobs_run_without(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "unavailable", lambda: "the kernel says no")
    local = launcher(home)
    assert wait(local, local.launch(job(home, steps=1), money())).state == "succeeded"


@needs_sandbox
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
def test_the_signal_of_which_a_program_died_is_told(home: Path, name: str) -> None:
    local, number = launcher(home), signal.Signals[name].value
    killer = f"kill -{number} $PPID"
    handle = local.launch(job(home, steps=99, shell=killer, deaf=False), money())
    status = wait(local, handle)
    expected = ("continue", 75) if name == "SIGTERM" else ("lost", -number)
    assert (status.state, status.exit_code) == expected
    wait_until_none_is_alive(home)


@needs_sandbox
@pytest.mark.parametrize("victim", ["watchdog", "sandbox"])
def test_nothing_outlives_the_watchdog_or_the_sandbox(home: Path, victim: str) -> None:
    local = launcher(home)
    handle = local.launch(job(home, steps=9999, deaf=True, grandchild=True), money())
    while not local.progress(handle.key):
        time.sleep(0.02)
    watchdog = psutil.Process(int((Path(handle.place) / "lock").read_text()))
    below = watchdog.children(recursive=True)
    assert len(below) == 4, "the sandbox, its first process, the program and its child"
    (watchdog if victim == "watchdog" else below[0]).kill()
    psutil.wait_procs(below, timeout=10)
    assert [one for one in below if one.is_running()] == []
    assert wait(local, handle).state == "lost"
    wait_until_none_is_alive(home)


@needs_sandbox
def test_a_sandbox_is_had_by_an_ordinary_user(home: Path) -> None:
    """In a user namespace: not root, and without a capability."""
    mapped = ["unshare", "--user", "--map-user=1234", "--map-group=1234"]
    if os.geteuid() or subprocess.run([*mapped, "true"], capture_output=True).returncode:
        pytest.skip("only root, whose files the mapped user owns, may be mapped to another user")
    asked = "import os; from infra.compute import reach; print(os.getuid(), reach.unavailable())"
    done = subprocess.run([*mapped, sys.executable, "-c", asked], capture_output=True, text=True)
    assert done.stdout == "1234 None\n", done.stderr
    assert alive(home) == []
