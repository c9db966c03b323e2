"""What `nightshift up` puts on the Prefect server, and what it leaves as people have it."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest

import deployments.server.automations  # noqa: F401 - here: it would keep a client that is patched
from deployments.server import deploy
from infra.settings import REPOSITORY
from tests.helpers.users import User, wait_for

pytestmark = pytest.mark.timeout(900)

BLOCK = """
from prefect.blocks.notifications import CustomWebhookNotificationBlock
CustomWebhookNotificationBlock(
    name="test", url="{url}", json_data={{"subject": "{{{{subject}}}}", "body": "{{{{body}}}}"}}
).save("test")
"""
EVENTS = """
from decimal import Decimal
from infra.models.registry import ModelVersion
from infra.models.verdicts import Verdict
from prefect.events import emit_event
from tasks.champions import announce
from tasks.dpo import feedback
candidate = ModelVersion(model="words", kind="policy", version="7", uri="", sha256="", base="")
verdict = Verdict(promote=False, gain=0, confidence_interval=(0, 0), checks=[])
for _ in range(2):  # a resumed run
    announce.judged(candidate, "6", verdict)
model = {"prefect.resource.id": "nightshift.model.words"}
emit_event(feedback.EVENT, resource=model, payload={"model": "words", "feedback": 500})
"""


class Inbox(HTTPServer):
    """A place for notifications."""

    def __init__(self) -> None:
        self.got: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), Letters)


class Letters(BaseHTTPRequestHandler):
    server: Inbox

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with Inbox() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_schedules_outlive_a_deploying_that_fails_or_is_killed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = {"schedule": {"cron": "0 3 * * *"}, "active": True, "max_scheduled_runs": None}
    mine |= {"parameters": {}, "slug": None}
    stored = {"id": "1", "name": "cost-guard", "schedules": [mine]}
    client = MagicMock()
    client.return_value.__enter__.return_value = client
    monkeypatch.setattr("prefect.client.orchestration.get_client", client)
    monkeypatch.setattr(deploy.prefect_server, "find", lambda: (home / "prefect").mkdir())
    monkeypatch.setattr(deploy.prefect_server, "ask", lambda *_: [stored])
    fails = [sys.executable, "-c", "print('prefect.yaml: no'); raise SystemExit(1)"]
    popen = subprocess.Popen
    monkeypatch.setattr(deploy.subprocess, "Popen", lambda _, **how: popen(fails, **how))
    home.mkdir()
    with pytest.raises(SystemExit, match=r"prefect\.yaml: no"):
        deploy.main()
    restored = client.request.call_args_list
    assert [(one.kwargs["path_params"], one.kwargs["json"]) for one in restored] == [
        ({"id": "1"}, {"schedules": [mine]})
    ]
    assert not deploy._file().exists()

    deploy._remember()  # and then it was killed, in the middle
    stored["schedules"] = [mine | {"active": False}]  # of prefect.yaml
    assert deploy._remember() == {"1": [mine]}


def python(user: User, api: str, code: str) -> None:
    environment = user.environment() | {"PYTHONPATH": str(REPOSITORY), "PREFECT_API_URL": api}
    environment["PREFECT_API_AUTH_STRING"] = ":".join(user.prefect_auth)
    environment["PREFECT_HOME"] = str(user.home / "prefect" / "home")
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


@pytest.mark.long
def test_chains_and_notices_work_and_keep_their_switches(alone: User, inbox: Inbox) -> None:
    user = alone
    user.settings["NIGHTSHIFT_NOTIFICATIONS"] = "custom-webhook/test"
    api = user.json("up", "--detach")["ui"] + "/api"

    def ask(method: str, path: str, content: object = None) -> Any:
        url = f"{api}/{path}"
        answer = httpx.request(method, url, json=content, timeout=30, auth=user.prefect_auth)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def automations() -> dict[str, dict]:
        mine = ask(
            "POST", "automations/filter", {"automations": {"tags": {"all_": ["nightshift"]}}}
        )
        assert len({one["name"] for one in mine}) == len(mine), "a flow would start twice"
        return {one["name"]: one for one in mine}

    chains = {
        "feedback.threshold-reached starts dpo-training",
        "observations.threshold-reached starts surrogate-retraining",
        "readings.year-complete starts collect-observations",
    }
    there = automations()
    assert set(there) == chains and not any(one["enabled"] for one in there.values())
    (row,) = [one for one in user.json("doctor") if one["check"] == "notifications"]
    assert "custom-webhook/test" in row["message"] and row["state"] == "missing"

    python(user, api, BLOCK.format(url=f"http://127.0.0.1:{inbox.server_port}"))
    chain = there["feedback.threshold-reached starts dpo-training"]
    ask("PATCH", f"automations/{chain['id']}", {"enabled": True})
    given = ("name", "description", "enabled", "tags", "trigger", "actions")
    copied = {name: chain[name] for name in given}
    ask("POST", "automations/", copied)  # of another `up` then
    for number in range(200):  # as many as the server gives at once
        ask("POST", "automations/", copied | {"name": f"a {number}", "tags": []})
    nightly = ask("GET", "deployments/name/nightly-ppo/nightly-ppo")
    own = {"schedule": {"cron": "5 5 * * *", "timezone": "Europe/Berlin"}, "active": True}
    theirs = nightly["schedules"][0] | {"active": True}
    ask("PATCH", f"deployments/{nightly['id']}", {"schedules": [own, schedule(theirs)]})
    user.json("up", "--detach")  # a second one deploys again
    again = automations()
    notices = ("budget warnings", "failed gates", "failed runs", "regressed benchmarks")
    assert set(again) == chains | {f"notice of {about}" for about in notices}
    assert again[chain["name"]]["enabled"] and again[chain["name"]]["id"] == chain["id"]
    kept = ask("GET", "deployments/name/nightly-ppo/nightly-ppo")["schedules"]
    assert {one["schedule"]["cron"]: one["active"] for one in kept} == {
        "5 5 * * *": True,
        "0 20 * * *": True,
    }

    python(user, api, EVENTS)

    def chained() -> Any:
        runs = ask("POST", "flow_runs/filter", {})
        mine = [one for one in runs if one["parameters"].get("parameters") == {"name": "words"}]
        return mine[0] if mine and mine[0]["state"]["type"] == "COMPLETED" else None

    assert wait_for(chained, 90)["name"] == "dpo-training words"
    wait_for(lambda: inbox.got, 60)
    code, _, err = user.run("submit", "build-preferences", "--dataset", "nowhere.jsonl", "--wait")
    assert code == 2, err  # it ends as `Refused`, of which nobody is told
    user.json("budget", "set", "0")
    (user.folder / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    code, _, err = user.run("submit", "build-preferences", "--dataset", "pairs.jsonl", "--wait")
    assert code == 3, err
    wait_for(lambda: len(inbox.got) == 2, 60)
    gate, failed = inbox.got
    assert gate["subject"] == "words: version 7 did not pass the gate"
    assert "Version 6 stays champion" in gate["body"]
    assert failed["subject"] == "build-preferences design, dataset pairs.jsonl: Failed"
    assert "no room" in failed["body"] and "/runs/flow-run/" in failed["body"]
    user.json("down")
    user.wait_until_nothing_runs()


def schedule(stored: dict[str, Any]) -> dict[str, Any]:
    return {name: stored[name] for name in ("schedule", "active", "parameters", "slug")}
