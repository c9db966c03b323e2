"""What pgbench reports, as the yardstick reads it. No stall can be had at will: it is made up."""

from pathlib import Path

from benchmarks import ledger

REPORT = """#!/bin/sh
case "$*" in
*--time=2\\ *) echo "number of transactions actually processed: 0" ;;
*) echo "number of transactions actually processed: 30"
   echo "tps = 7.500000 (without initial connection time)" ;;
esac
"""


def test_a_machine_that_did_no_transaction_is_asked_for_longer(tmp_path: Path, monkeypatch):
    program = tmp_path / "pgbench"
    program.write_text(REPORT)
    program.chmod(0o755)
    monkeypatch.setattr(ledger, "binary", lambda _: program)
    found = ledger.run_pgbench("postgresql:///", tmp_path / "script", 8)
    assert found == {"tps": 7.5, "transactions": 30}
