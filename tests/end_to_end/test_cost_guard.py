"""The guard as a user runs it: a report and a plot, and nothing to do where all is well."""

from pathlib import Path


def test_the_guard_reports(user) -> None:
    assert user.json("run", "cost-guard", "--plan") == {"steps": [], "usd_at_most": "0"}
    report = user.json("run", "cost-guard", "--dry-run")
    assert report["warnings"] == [] and report["done"] == [] and report["machines"] == []
    text = Path(report["files"]["markdown"]).read_text()
    assert "the ledger, the jobs and the providers agree" in text and "| project a day |" in text
    assert Path(report["files"]["plot"]).read_bytes().startswith(b"\x89PNG")
    code, out, _ = user.run("run", "cost-guard")
    assert code == 0 and "What was done" in out
    user.wait_until_nothing_runs()
