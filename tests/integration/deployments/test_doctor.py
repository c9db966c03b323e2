"""`nightshift doctor` finds what is there, says what is missing, and starts nothing."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from deployments.cli import cli
from deployments.commands import doctor, tables
from deployments.commands.doctor import Finding
from deployments.server import services
from infra.compute import reach
from infra.database import Pool
from infra.errors import ServiceUnavailable
from infra.settings import settings
from tests.helpers.doors import NOWHERE


@pytest.fixture(autouse=True)
def alone(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("HOME", str(tmp_path))


def examine() -> tuple[dict[str, Finding], int]:
    settings.cache_clear()
    findings, code = doctor.examine()
    assert all(one.remedy for one in findings if one.state != "ok"), "each says how to mend it"
    return {one.check: one for one in findings}, code


def test_a_new_home_lacks_only_what_is_made_on_first_use(home: Path) -> None:
    found, code = examine()
    assert code == 0 and not [one for one in found.values() if one.state == "broken"]
    lacking = {name for name, one in found.items() if one.state == "missing"}
    assert lacking == {
        "job environments", "database", "Prefect", "schedules", "notifications", "webhooks",
        "budget", "SkyPilot",
    }  # fmt: skip
    assert {path.name for path in home.iterdir()} <= {"objects"}, "it started and made nothing"


@pytest.mark.parametrize(
    ("variable", "value", "check", "code"),
    [
        ("NIGHTSHIFT_POLL_SECONDS", "-1", "settings", 2),
        ("NIGHTSHIFT_GATEWAY_HOST", "0.0.0.0", "settings", 2),  # noqa: S104 - it is refused
        ("NIGHTSHIFT_HOOKS_KEY", "short", "settings", 2),
        ("NIGHTSHIFT_S3_ENDPOINT_URL", "http://127.0.0.1:9", "settings", 2),
        ("NIGHTSHIFT_LOCAL_GPUS", "99", "this machine", 2),
        ("NIGHTSHIFT_DATABASE_URL", "postgresql://u@127.0.0.1:9/nightshift", "database", 4),
        ("NIGHTSHIFT_DATABASE_URL", "mysql://u@127.0.0.1:9/nightshift", "database", 2),
        ("NIGHTSHIFT_OBJECTS", "file:///proc/nowhere", "object store", 5),
        ("NIGHTSHIFT_OBJECTS", "s3://", "settings", 2),
        ("NIGHTSHIFT_HOME", __file__, "disk", 5),
        ("PREFECT_API_URL", "http://127.0.0.1:9/api", "Prefect", 4),
    ],
)
def test_what_is_broken_names_the_setting(
    variable: str, value: str, check: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    found, exit_code = examine()
    assert exit_code == code and found[check].state == "broken", found
    assert variable in found[check].message + found[check].remedy


@pytest.fixture
def page() -> Iterator[str]:
    """The URL of a server that answers everything with a page."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Please log in</html>")

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["away", "a page"])
def test_a_prefect_server_that_is_none_is_a_finding_and_an_error_of_up(
    kind: str, page: str, database: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", NOWHERE if kind == "away" else page)
    monkeypatch.setenv("NIGHTSHIFT_NOTIFICATIONS", "slack-webhook/team")
    found, code = examine()
    assert code == 4
    for check in ("Prefect", "notifications"):
        assert found[check].state == "broken" and "PREFECT_API_URL" in found[check].remedy
    with pytest.raises(ServiceUnavailable, match="does not answer"):
        services.start_all()


def test_a_full_disk_and_another_package_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_GB", 10**9)
    version = doctor.importlib.metadata.version
    monkeypatch.setattr(
        doctor.importlib.metadata, "version", lambda name: "0" if name == "click" else version(name)
    )
    found, code = examine()
    assert code == 6 and "click 0 instead of" in found["Python"].message
    assert "NIGHTSHIFT_HOME" in found["disk"].remedy and found["disk"].state == "broken"


def test_it_says_who_reads_the_home_folder_and_whether_jobs_have_a_sandbox(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir(mode=0o700)
    for why, state, says in (
        (None, "ok", "jobs have a sandbox with a network"),
        ("the kernel says no", "missing", "without a sandbox: the kernel says no"),
    ):
        monkeypatch.setattr(reach, "unavailable", lambda why=why: why)
        found, _ = examine()
        assert found["walls"].state == state and says in found["walls"].message
    home.chmod(0o755)
    found, _ = examine()
    assert found["walls"].state == "missing" and f"chmod 700 {home}" in found["walls"].remedy


def test_no_network_without_a_sandbox_is_broken(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_LOCAL_NETWORK", "false")
    monkeypatch.setattr(reach, "unavailable", lambda: "the kernel says no")
    settings.cache_clear()
    found, code = examine()
    assert code and found["walls"].state == "broken"
    assert "NIGHTSHIFT_LOCAL_NETWORK is off" in found["walls"].message


def test_a_misspelt_setting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_OBJECT", "s3://bucket")
    found, code = examine()
    assert code == 0 and "NIGHTSHIFT_OBJECT" in found["settings"].message
    assert found["settings"].state == "missing"
    told = CliRunner().invoke(cli, ["quote", "--help"]).output
    assert "NIGHTSHIFT_OBJECT is no setting; NIGHTSHIFT_OBJECTS is" in told


def test_database_and_budget_are_read(database: Pool) -> None:
    found, _ = examine()
    assert (
        found["database"].state == "ok" and "NIGHTSHIFT_DATABASE_URL" in found["database"].message
    )
    assert found["budget"].message == f"{Decimal(200):,.2f} dollars are left"
    tables.set_budget("project", "day", "0", None)
    found, code = examine()
    assert found["budget"].state == "missing" and code == 0, "tomorrow it is another day"


def test_clouds_that_skypilot_enabled_need_a_bucket(tmp_path: Path, monkeypatch) -> None:
    enable = (
        "from sky import global_user_state, clouds; from sky.clouds import cloud;"
        "global_user_state.set_enabled_clouds(['AWS'], cloud.CloudCapability.COMPUTE, 'default')"
    )
    subprocess.run([sys.executable, "-c", enable], check=True, capture_output=True, timeout=120)
    assert (tmp_path / ".sky" / "state.db").is_file()
    found, _ = examine()
    assert "AWS" in found["SkyPilot"].message and "NIGHTSHIFT_OBJECTS" in found["SkyPilot"].remedy


def test_json_and_table_have_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.show(as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert [one["check"] for one in told] == list(doctor.CHECKS)
    doctor.show(as_json=False)
    assert "PostgreSQL does not run" in capsys.readouterr().out
