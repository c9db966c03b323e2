"""What a person sees of `nightshift up` in a browser, and what sensors reach over MQTT.

Screenshots are kept in .nightshift/screenshots of the project.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from deployments.catalogue import flow_names, parameter_model
from infra.keeper import free_port
from infra.settings import REPOSITORY
from tasks.runs.parameters import FIRST
from tests.helpers.brokers import Broker, building_year
from tests.helpers.debian import program
from tests.helpers.users import User, reachable_folder

SCREENSHOTS = REPOSITORY / ".nightshift" / "screenshots"
PATIENCE_S = 90


@dataclass
class Kept:
    """A user whose `nightshift up` runs."""

    user: User
    ui: str
    gateway: str
    broker_port: int

    def ask(self, path: str, content: Any) -> Any:
        url = f"{self.ui}/api/{path}"
        return httpx.post(url, json=content, timeout=30, auth=self.user.prefect_auth).json()


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    with reachable_folder() as folder:
        user = User(folder)
        user.home.mkdir()
        port = free_port()
        user.settings |= {
            "NIGHTSHIFT_MQTT_BROKER": f"mqtt://127.0.0.1:{port}",
        }
        process = user.start("up", "--json")
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            yield Kept(user, told["ui"], told["gateway"].removesuffix("/hooks/"), port)
        finally:
            process.terminate()
            process.communicate(timeout=100)
        user.wait_until_nothing_runs()


@pytest.fixture
def page() -> Iterator[Page]:
    chromium = program("chromium", "chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=sandbox)
        opened = browser.new_page(viewport={"width": 1400, "height": 900})
        opened.set_default_timeout(PATIENCE_S * 1000)
        yield opened
        browser.close()


def shoot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(700)  # its animations
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def enter(kept: Kept, page: Page) -> None:
    page.goto(f"{kept.ui}/deployments")
    page.locator("input[type=password]").fill(":".join(kept.user.prefect_auth))
    page.keyboard.press("Enter")
    page.get_by_role("link", name="cost-guard", exact=True).first.wait_for()


def deployment(kept: Kept, flow: str) -> str:
    named = {"deployments": {"name": {"any_": [flow]}}}
    (found,) = kept.ask("deployments/filter", named)
    return found["id"]


def test_a_flow_is_started_from_its_form_and_shows_what_it_did(kept: Kept, page: Page) -> None:
    enter(kept, page)
    page.reload()  # it asks once; what it said before it had the password is gone
    page.get_by_role("link", name="cost-guard", exact=True).first.wait_for()
    shoot(page, "1-deployments")
    search = page.get_by_placeholder("Search deployments...")
    for name in flow_names():  # a page shows ten
        search.fill(name)
        page.get_by_role("link", name=name, exact=True).first.wait_for()

    search.fill("cost-guard")
    page.get_by_role("link", name="cost-guard", exact=True).first.click()
    page.locator(".p-tabs").get_by_text("Description", exact=True).click()
    page.get_by_text("warn when a budget").first.wait_for()
    shoot(page, "2-description")

    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    page.get_by_text("Show what would be done, and do nothing.").wait_for()
    dry_run = page.get_by_role("switch").first
    dry_run.click()
    expect(dry_run).to_have_attribute("aria-checked", "true")
    shoot(page, "3-form")

    page.get_by_role("button", name="Submit").click()
    page.get_by_text("View run").first.wait_for()
    newest = {"sort": "EXPECTED_START_TIME_DESC"}
    runs = kept.ask("flow_runs/filter", newest)
    run = next(one for one in runs if one["parameters"] == {"parameters": {"dry_run": True}})
    page.goto(f"{kept.ui}/runs/flow-run/{run['id']}")
    page.locator(".page-heading").get_by_text("Completed").wait_for()
    shoot(page, "4-run")

    page.locator(".p-tabs").get_by_text("Artifacts", exact=True).click()
    report = page.locator(".p-tabs").get_by_role("link", name="cost-guard")
    report.wait_for()
    shoot(page, "5-artifacts")
    report.click()
    page.get_by_text("the ledger, the jobs and the providers agree").wait_for()
    assert page.get_by_role("img", name="spending").evaluate("image => image.naturalWidth") == 1280
    shoot(page, "6-report")


@pytest.mark.long
def test_every_form_begins_with_what_a_first_run_is_told(kept: Kept, page: Page) -> None:
    enter(kept, page)
    for flow in flow_names():
        page.goto(f"{kept.ui}/deployments/deployment/{deployment(kept, flow)}/run")
        fields = parameter_model(flow).model_fields
        titles = [fields[name].title for name in FIRST if name in fields]
        for title in titles:
            page.get_by_text(f"{title} (Optional)", exact=True).first.wait_for()
        labels = page.locator("label").all_inner_texts()
        shown = [one.removesuffix(" (Optional)") for one in labels if one.endswith("(Optional)")]
        assert list(dict.fromkeys(shown))[: len(titles)] == titles
        shoot(page, f"form-{flow}")


@pytest.mark.long
def test_schedules_run_at_their_time(kept: Kept, page: Page) -> None:
    """One added by hand, one with parameters of its own, one that the UI's toggle turns on."""
    guard = deployment(kept, "cost-guard")
    at = (datetime.now(UTC) + timedelta(seconds=130)).replace(second=0, microsecond=0)
    cron = {"cron": f"{at.minute} {at.hour} * * *", "timezone": "UTC"}
    dry = {"parameters": {"dry_run": True}}
    wanted = [
        {"active": True, "schedule": cron},
        {"active": True, "schedule": cron, "parameters": dry},
        {"active": False, "schedule": cron},
    ]
    made = kept.ask(f"deployments/{guard}/schedules", wanted)
    assert [one["active"] for one in made] == [True, True, False]
    enter(kept, page)
    page.goto(f"{kept.ui}/deployments/deployment/{guard}")
    off = page.locator("[role=switch][aria-checked=false]")
    off.first.click()
    expect(off).to_have_count(0)
    shoot(page, "7-schedules")

    def ran() -> bool:
        mine = [one["id"] for one in made]
        runs = [
            one
            for one in kept.ask("flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC"})
            if datetime.fromisoformat(one["expected_start_time"]) == at
            and any(id_ in (one["idempotency_key"] or "") for id_ in mine)
        ]
        done = [one["parameters"] for one in runs if one["state"]["type"] == "COMPLETED"]
        return len(done) == len(mine) and done.count(dry) == 1

    wait_until(ran, seconds=(at - datetime.now(UTC)).total_seconds() + PATIENCE_S)


BLIND = """
async ([api, name]) => {
    const json = JSON.stringify({name});
    const post = async (url, body) =>
        await fetch(`${api}/${url}`, {method: "POST", mode: "no-cors", body}).catch(() => {});
    await post("flows/", new Blob([json]));
    await post("flows/", json);
    return await new Promise(done => {
        const socket = new WebSocket(`${api.replace("http", "ws")}/logs/out`);
        socket.onopen = () => done(true);
        socket.onerror = () => done(false);
    });
}
"""


def test_no_page_of_another_origin_reaches_prefect(kept: Kept, page: Page) -> None:
    api, name = f"{kept.ui}/api", "of-another-page"
    page.goto(f"{kept.gateway}/health")
    opened = page.evaluate(BLIND, [api, name])
    assert not kept.ask("flows/filter", {"flows": {"name": {"any_": [name]}}})
    assert not opened, "it would read every log, and send events that start flows"
    host = {"Host": f"rebound.example:{kept.ui[-5:]}"}
    rebound = httpx.get(f"{api}/flows/count", headers=host, auth=kept.user.prefect_auth)
    assert rebound.status_code == 400


def test_what_sensors_publish_is_stored_and_becomes_an_event(kept: Kept) -> None:
    user = kept.user
    rows = {row["service"]: row for row in user.json("status")}
    assert rows["MQTT bridge"]["running"], "it waits for its broker"
    broker = Broker(user.folder, port=kept.broker_port)
    broker.start()
    try:
        wait_until(lambda: "takes nightshift/" in (user.home / "mqtt" / "log.txt").read_text())
        broker.publish(
            ("nightshift/observations/house", json.dumps(building_year(1))),
            ("nightshift/events/plant/door", json.dumps({"open": True})),
            ("nightshift/observations/house", "not a building"),
        )
        wait_until(lambda: user.json("mqtt", "messages")["count"] == {"refused": 1, "told": 1})
    finally:
        broker.stop()
    (refused,) = user.json("mqtt", "messages", "--refused")["messages"]
    assert refused["payload"] == "not a building" and "no JSON" in refused["error"]
    asked = {"filter": {"event": {"name": ["mqtt.message"]}}}
    wait_until(lambda: kept.ask("events/filter", asked)["total"] == 1)
    (event,) = kept.ask("events/filter", asked)["events"]
    assert (
        event["resource"]["prefect.resource.id"] == "nightshift.mqtt.nightshift/events/plant/door"
    )
    assert event["payload"] == {"topic": "nightshift/events/plant/door", "data": {"open": True}}


def wait_until(condition, seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)
