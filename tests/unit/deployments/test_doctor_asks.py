"""What `nightshift doctor` asks of a server, it asks once."""

import importlib.metadata

import pytest

from deployments.catalogue import flow_names
from deployments.commands import doctor
from infra.services import prefect_server


def test_two_checks_look_at_the_same_deployments(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def deployments(flows: list[str]) -> list[dict]:
        asked.append(flows)
        return [{"name": name, "schedules": [], "parameter_openapi_schema": {}} for name in flows]

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.setattr(prefect_server, "find", lambda: "")
    version = importlib.metadata.version("prefect")
    monkeypatch.setattr(prefect_server, "ask", lambda _: version)
    monkeypatch.setattr(prefect_server, "deployments", deployments)
    monkeypatch.setattr(doctor, "online_workers", lambda: ["one"])
    names = ("Prefect", "schedules")
    monkeypatch.setattr(doctor, "CHECKS", {name: doctor.CHECKS[name] for name in names})
    for times in (1, 2):  # what is asked for anew is read anew
        found, code = doctor.examine()
        assert [one.state for one in found] == ["ok", "ok"] and code == 0
        assert asked == [flow_names()] * times
