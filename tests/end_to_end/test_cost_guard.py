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


def test_the_surroundings_of_a_user_change_nothing(user) -> None:
    """A proxy, a Prefect profile of one's own, logging for debugging, a terminal of ASCII."""
    profiles = user.home.parent / "prefect"
    profiles.mkdir()
    (profiles / "profiles.toml").write_text(
        'active = "work"\n\n[profiles.work]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n'
    )
    user.settings |= {
        "PREFECT_HOME": str(profiles), "PREFECT_LOGGING_LEVEL": "DEBUG",
        "http_proxy": "http://127.0.0.1:9", "PYTHONIOENCODING": "ascii",
    }  # fmt: skip
    assert user.json("run", "cost-guard", "--dry-run")["done"] == []
    code, out, err = user.run("run", "cost-guard", "--dry-run")
    assert code == 0 and "Cost guard" in out and "Traceback" not in err, out + err
    user.wait_until_nothing_runs()
