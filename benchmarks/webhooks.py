"""Deliveries a second that the gateway accepts from 16 clients, beside pgbench inserting the row.

    python -m benchmarks.webhooks        (needs Debian's wrk)

Both sides write to one embedded server with its default durability (fsync on) and take turns.
Ours: 16 connections of wrk send Standard Webhooks over loopback HTTP to a gateway process, each
waits for its 202 before it sends the next. Every request has an id and a signature of its own, made
beforehand: signing is the senders' work. Afterwards the committed rows are counted: there must be
one for each 202. Theirs: `pgbench` with 16 connections over the unix socket and prepared statements
inserts the same two rows (delivery and run) in one statement. The senders of both are C programs on
the same two cores. Left out: TLS, distance, the start of flow runs (no Prefect server answers,
which costs the dispatcher its attempts). The CPU time of the gateway's process for each delivery
says more than the rest where other work runs.
"""

import base64
import hashlib
import hmac
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

import psutil
import psycopg
from pydantic import SecretStr

from infra import database, keeper
from infra.database.embedded import binary
from infra.hooks import Hook, create, secrets

CLIENTS = 16
ROUNDS = 5
SECONDS = 5
MOST_A_SECOND = 12_000
"""How many requests are made beforehand."""
BODY = json.dumps({"type": "new", "data": {"name": "gears", "feedback_since": "12h"}})
ROW = """
WITH fresh AS (
    INSERT INTO webhook_deliveries (id, hook, key, run, body) SELECT id, 'bench', id::text, id,
        '{body}' FROM (SELECT gen_random_uuid() AS id) AS one RETURNING id
)
INSERT INTO hook_runs (id, hook, flow, parameters)
SELECT id, 'bench', 'build-preferences', '{parameters}' FROM fresh;
"""
SENDER = """
local requests, sent = {}, 0
function init(arguments)
    for one in io.open(arguments[1], "rb"):read("*a"):gmatch("[^%z]+") do
        requests[#requests + 1] = one
    end
end
function request()
    sent = sent + 1
    return requests[sent]
end
function done(summary, latency)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format('\\n{"accepted": %d, "failed": %d, "seconds": %f, "p99_ms": %f}\\n',
        summary.requests, failed, summary.duration / 1e6, latency:percentile(99) / 1e3))
end
"""


def request(secret: bytes) -> bytes:
    """One signed request, as bytes."""
    id_, at = uuid.uuid4().hex, int(time.time())
    digest = hmac.new(secret, f"{id_}.{at}.{BODY}".encode(), hashlib.sha256).digest()
    return (
        f"POST /hooks/bench HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BODY)}\r\n"
        f"webhook-id: {id_}\r\nwebhook-timestamp: {at}\r\n"
        f"webhook-signature: v1,{base64.b64encode(digest).decode()}\r\n\r\n{BODY}"
    ).encode()


def measure_gateway(port: int, secret: bytes, folder: Path) -> dict[str, float]:
    """What wrk tells of one round: `accepted` in `seconds`, and `p99_ms`."""
    sender, requests = folder / "sender.lua", folder / "requests"
    sender.write_text(SENDER)
    requests.write_bytes(b"\0".join(request(secret) for _ in range(MOST_A_SECOND * SECONDS)))
    done = subprocess.run(
        ["wrk", "--threads=1", f"--connections={CLIENTS}", f"--duration={SECONDS}s"]
        + [f"--script={sender}", f"http://127.0.0.1:{port}", "--", str(requests)],
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert not told["failed"], done.stdout
    return told


def count_and_clear(url: str) -> int:
    """How many deliveries are committed, each with a run."""
    with psycopg.connect(url) as connection:
        counted = connection.execute(
            "SELECT count(*) FROM webhook_deliveries d JOIN hook_runs r ON r.id = d.run"
        ).fetchone()
        connection.execute("TRUNCATE webhook_deliveries, hook_runs")
    assert counted is not None
    return counted[0]


def measure_pgbench(url: str, script: Path) -> float:
    """Rows a second, as pgbench reports them."""
    done = subprocess.run(
        [binary("pgbench"), "--no-vacuum", "--protocol=prepared", f"--file={script}"]
        + [f"--client={CLIENTS}", "--jobs=2", f"--time={SECONDS}", url],
        capture_output=True,
        text=True,
        check=True,
    )
    [line] = [line for line in done.stdout.splitlines() if line.startswith("tps = ")]
    return float(line.split()[2])


def main() -> None:
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not here: apt-get install wrk")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        os.environ |= {"NIGHTSHIFT_HOME": name, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
        pool = database.pool()
        secret = secrets.fresh()
        fields = {"name": "bench", "flows": ["build-preferences"], "per_minute": 10**9}
        create(pool, Hook(**fields, secret=SecretStr(secret)))
        script = folder / "row.sql"
        given = json.dumps(json.loads(BODY)["data"])
        script.write_text(ROW.format(body=BODY, parameters=given))
        port = keeper.free_port()
        gateway = subprocess.Popen(
            [sys.executable, "-m", "deployments.webhooks.gateway", str(port)]
        )
        theirs, ours, tails, costs = [], [], [], []
        try:
            wait_for(port)
            key = base64.b64decode(secret.removeprefix("whsec_"))
            for _ in range(ROUNDS):
                theirs.append(measure_pgbench(database.url(), script))
                count_and_clear(database.url())
                begun = sum(psutil.Process(gateway.pid).cpu_times()[:2])
                told = measure_gateway(port, key, folder)
                spent = sum(psutil.Process(gateway.pid).cpu_times()[:2]) - begun
                rows = count_and_clear(database.url())
                assert told["accepted"] <= rows <= told["accepted"] + CLIENTS, (told, rows)
                costs.append(spent / rows * 1000)
                ours.append(told["accepted"] / told["seconds"])
                tails.append(told["p99_ms"])
        finally:
            gateway.terminate()
            gateway.wait()
            database.close()
            while (folder / "postgres" / "data" / "postmaster.pid").exists():
                time.sleep(0.05)
    report(ours, theirs, tails, costs)


def wait_for(port: int) -> None:
    """Until the gateway answers."""
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the gateway did not start")


def report(ours: list[float], theirs: list[float], tails: list[float], costs: list[float]) -> None:
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    rows = {"gateway_per_s": ours, "pgbench_per_s": theirs, "ratio": ratios, "p99_ms": tails}
    rows["gateway_cpu_ms"] = costs
    print(f"{'':20}{'min':>10}{'median':>10}{'max':>10}")
    result = {}
    for name, values in rows.items():
        spread = min(values), statistics.median(values), max(values)
        result[name] = [round(value, 3) for value in spread]
        print(f"{name:20}" + "".join(f"{value:>10.2f}" for value in spread))
    print(json.dumps({"benchmark": "webhooks", "rounds": len(ours), **result}))


if __name__ == "__main__":
    main()
