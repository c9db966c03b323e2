"""A federation of three homes, by the commands of its page: the owner's, where one tenant is, too,
and two others'. It waits for its tenants, one has wrong data and is removed, one is killed.

One run; every test looks at what it left.
"""

import base64
import json
import shlex
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.compute.environments import ensure
from infra.settings import REPOSITORY, settings
from jobs.federated.invitation import Invite
from jobs.federated.keys import make_node_key
from tasks.federated.demo import make_tenants
from tests.helpers.users import Shared, User, reachable_folder

pytestmark = [pytest.mark.timeout(1200), pytest.mark.long]

PAGE = REPOSITORY / "docs" / "federated-rounds.md"
BOUNDS = "--minimum-tenants 2 --round-seconds 60 --hours 0.2 --max-cost 1".split()
GATE = "--minimum-gain -0.5 --max-tenant-loss 1".split()


def documented() -> dict[str, list[str]]:
    """The commands of the page's part, by their second word, or `run`."""
    part = PAGE.read_text().partition("## Tenants on their own machines")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("nightshift ")]
    words = [shlex.split(line)[1:] for line in lines]
    return {line[1] if line[0] == "federation" else line[0]: line for line in words}


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def until(true: Callable[[], Any], seconds: float = 400) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


@dataclass
class Met:
    """What the run and the tenants said, and what was answered to strangers."""

    owner: User
    folder: Path
    joined: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    said: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    status: list[dict[str, Any]] = field(default_factory=list)
    during: list[dict[str, Any]] = field(default_factory=list)
    run: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def started(self) -> list[subprocess.Popen[str]]:
        return [*self.run, *self.joined.values()]

    @property
    def job(self) -> Path:
        (folder,) = (self.owner.home / "jobs").glob("*-train-*")
        return folder

    @property
    def rows(self) -> list[dict[str, Any]]:
        state = self.job / "checkpoints" / "step-00000002" / "state.json"
        return json.loads(state.read_text())["log"]


class Stranger:
    """Asks at the door with whatever it has."""

    def __init__(self, invite: Invite) -> None:
        self.invite = invite
        trusted = ssl.create_default_context(cadata=invite.ca)
        self.client = httpx.Client(base_url=f"https://{invite.address}", verify=trusted, timeout=20)

    def knock(self, public_key: bytes) -> tuple[int, str]:
        told = {
            "tenant": self.invite.tenant,
            "token": self.invite.token.get_secret_value(),
            "public_key": public_key.decode(),
            "clock": time.time(),
        }
        answer = self.client.post("/v1/tenant", json=told)
        return answer.status_code, answer.text

    def fleet(self, public_key: bytes) -> tuple[int, str]:
        shown = {"flwr-public-key": base64.b64encode(public_key).decode()}
        answer = self.client.post("/v1/fleet/pull-messages", headers=shown, content=b"")
        return answer.status_code, answer.text


@pytest.fixture(scope="module")
def met(shared: Shared) -> Iterator[Met]:
    settings.cache_clear()
    environments = ensure("federated").parents[2]
    with reachable_folder() as folder:
        owner = User(folder / "owner", shared.settings())
        north, west = User(folder / "first"), User(folder / "second")
        for user in (owner, north, west):
            user.home.mkdir(parents=True)
            (user.home / "environments").symlink_to(environments)
        homes = {"north": north, "east": owner, "west": west, "south": west}
        met = Met(owner, folder)
        try:
            live(met, homes)
            yield met
        finally:
            for process in met.started:
                process.kill()
                process.communicate()
        for user in (owner, north, west):
            user.wait_until_nothing_runs()


def live(met: Met, homes: dict[str, User]) -> None:
    """The whole life of the federation."""
    page, owner, address = documented(), met.owner, free_address()
    create = [address if ":9443" in word else word for word in page["create"]]
    assert owner.run_here(*create)[0] == 0
    invites = invite_all(met, homes, page)
    join(met, homes, "north", page)
    process = owner.start(*page["run"], *BOUNDS, *GATE, "--json")
    met.run.append(process)
    until(lambda: list((owner.home / "jobs").glob("*-train-*/progress.jsonl")) or ended(process))
    until(lambda: "not east, south, west" in told(met) or ended(process))
    stranger = Stranger(invites["north"])
    foreign = make_node_key(met.folder / "foreign")
    met.answers["used"] = stranger.knock(foreign)
    met.answers["foreign"] = stranger.fleet(foreign)
    met.answers["none"] = stranger.fleet(b"")
    for name in ("east", "south", "west"):
        join(met, homes, name, page)
    until(lambda: list(met.job.glob("checkpoints/step-*")) or ended(process))
    met.joined["west"].kill()  # in the second round
    (place,) = [p for p in (met.folder / "second" / "home" / "joined").iterdir() if of(p, "south")]
    key = (place / "key.pub").read_bytes()
    met.answers["before"] = stranger.fleet(key)
    assert owner.run_here(*page["remove"])[0] == 0
    met.answers["removed"] = stranger.fleet(key)
    met.during = status(met, page)
    stranger.client.close()
    out, err = process.communicate(timeout=600)
    met.said["run"] = (process.returncode, out, err)
    assert process.returncode == 0, out + err
    met.report = json.loads(out)
    met.status = status(met, page)
    finish(met)


def finish(met: Met) -> None:
    """Who is still there is ended as by Ctrl-C."""
    for name in ("north", "east"):
        met.joined[name].send_signal(signal.SIGINT)
    for name, process in met.joined.items():
        out, err = process.communicate(timeout=60)
        met.said[name] = (process.returncode, out, err)


def invite_all(met: Met, homes: dict[str, User], page: dict[str, list[str]]) -> dict[str, Invite]:
    invites = {}
    command, into = page["invite"][:-2], page["invite"][-1]
    made = make_tenants(met.folder / "made")
    for name, user in homes.items():
        code, out, err = met.owner.run_here(*[name if w == "north" else w for w in command])
        assert code == 0, err
        invites[name] = Invite.of(out.strip())
        place = user.folder / name
        place.mkdir()
        (place / into).write_text(out)
        (made / name).rename(place / "data")
    rows = (homes["south"].folder / "south" / "data" / "data.csv").read_text().splitlines()
    one_class = [line[:-1] + "1" for line in rows[1:]]
    (homes["south"].folder / "south" / "data" / "data.csv").write_text(
        "\n".join([rows[0], *one_class])
    )
    return invites


def join(met: Met, homes: dict[str, User], name: str, page: dict[str, list[str]]) -> None:
    user = homes[name]
    met.joined[name] = User(user.folder / name, {"NIGHTSHIFT_HOME": str(user.home)}).start(
        *page["join"]
    )


def status(met: Met, page: dict[str, list[str]]) -> list[dict[str, Any]]:
    code, out, err = met.owner.run_here(*page["status"], "--json")
    assert code == 0, err
    assert met.owner.run_here(*page["status"])[0] == 0
    return json.loads(out)["tenants"]


def told(met: Met) -> str:
    return (met.job / "progress.jsonl").read_text()


def of(place: Path, name: str) -> bool:
    return json.loads((place / "invite.json").read_text())["tenant"] == name


def ended(process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, process.communicate()
    return False


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["tenant"]: row for row in rows}


def test_it_waits_for_its_tenants_and_says_for_whom(met: Met) -> None:
    assert "1 of the 2 needed are there, not east, south, west" in told(met)
    assert met.report["collected"]["tenants that trained"] == 3


def test_a_tenant_with_wrong_data_is_named_at_both_ends(met: Met) -> None:
    assert met.rows[0]["took_part"] == ["east", "north", "west"]
    assert met.rows[0]["left_out"] == {"south": "its node refuses: all rows are of one class"}
    assert "round 1: left out, the data: all rows are of one class" in met.said["south"][1]


def test_a_killed_tenant_does_not_end_the_run(met: Met) -> None:
    assert met.rows[1]["took_part"] == ["east", "north"]
    assert set(met.rows[1]["left_out"]) == {"south", "west"}
    assert met.report["verdict"]["promote"], met.report["verdict"]


def test_a_removed_tenant_is_refused_at_once_and_told(met: Met) -> None:
    assert met.answers["before"][0] != 403 and met.answers["removed"][0] == 403
    code, _, err = met.said["south"]
    assert code == 2 and "south was removed from the federation" in err and "→" in err
    assert by_name(met.during)["south"]["state"] == "removed"


def test_a_foreign_key_and_a_used_invite_are_refused(met: Met) -> None:
    assert met.answers["foreign"][0] == 403 and met.answers["none"][0] == 403
    status, text = met.answers["used"]
    assert status == 403 and "was used before, with another key" in text


def test_the_status_tells_rounds_and_shares(met: Met) -> None:
    rows = by_name(met.status)
    assert rows["north"]["round"] == 2 and rows["north"]["run"] == met.report["run"]
    assert rows["north"]["share"] + rows["east"]["share"] == pytest.approx(1)
    assert by_name(met.during)["north"]["up"]
    assert [rows[name]["state"] for name in ("north", "west")] == ["joined", "joined"]


def test_ctrl_c_ends_a_node_with_all_its_processes(met: Met) -> None:
    for name in ("north", "east"):
        code, out, err = met.said[name]
        assert code == 130 and "Traceback" not in err, err
        assert f"{name} is in the federation clinics" in out and "round 2: answered" in out


def test_no_row_and_no_path_leaves_a_tenant(met: Met) -> None:
    home, data = met.owner.home, met.folder / "first" / "north" / "data" / "data.csv"
    row = data.read_bytes().splitlines()[1]
    for path in home.rglob("*"):
        if path.is_file() and not {"environments", "joined"} & {*path.relative_to(home).parts}:
            content = path.read_bytes()
            assert row not in content and str(data.parent).encode() not in content, path


def test_what_is_secret_is_its_users_only(met: Met) -> None:
    homes = [met.owner.home, *(met.folder / name / "home" for name in ("first", "second"))]
    kept = [
        path
        for home in homes
        for part in ("federations", "joined")
        for path in home.rglob(f"{part}/**/*")
    ]
    assert len(kept) > 30
    assert not [p for p in kept if not p.is_symlink() and p.stat().st_mode & 0o077]
    token = json.loads(next((homes[1] / "joined").glob("*/invite.json")).read_text())["token"]
    owned = [p for p in (met.owner.home / "federations").rglob("*") if p.is_file()]
    assert owned and not [p for p in owned if token.encode() in p.read_bytes()]
