"""What `nightshift down` tells."""

import fcntl
from pathlib import Path

import pytest

from deployments.commands import start
from infra import keeper


def test_a_flow_run_that_goes_on_is_told(home: Path, capsys) -> None:
    folder = home / "flow-runs"
    folder.mkdir(parents=True)
    (folder / "of-a-dead-process.lock").touch()
    with (folder / "at-work.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        start.end_up(as_json=False)
        told = capsys.readouterr().out
        assert "Nothing was up." in told and "Flow runs still at work: 1" in told
    start.end_up(as_json=True)
    assert capsys.readouterr().out == '{"ended": 0, "flow_runs_at_work": 0}\n'


@pytest.mark.parametrize("server", [{}, {"api": "http://127.0.0.1:1/api"}], ids=["gone", "there"])
def test_what_becomes_of_it_hangs_on_the_server(
    server: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """A `nightshift run` keeps the server until it has ended."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(keeper, "address", lambda _service: server)
    (home / "flow-runs").mkdir(parents=True)
    with (home / "flow-runs" / "at-work.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        start.end_up(as_json=False)
    told = " ".join(capsys.readouterr().out.split())
    assert ("they end interrupted" in told) == (not server)
    assert ("They go on" in told) == bool(server)
