"""What `nightshift down` tells."""

import fcntl
from pathlib import Path

from deployments import start


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
