"""A tenant's end of a federation: `nightshift federation join` becomes this program.

    python -m jobs.federated.tenant [--secure-aggregation] PLACE DATA [MODEL]

PLACE is the tenant's own folder with `invite.json`; DATA has its data.csv, or with MODEL, its copy
of a language model, texts.jsonl. With --secure-aggregation it trains in no other runs.

Asks at the door until the federation opens, runs a SuperNode while it is open, starts it anew when
it dies, and ends with all its processes on Ctrl-C or when the tenant is refused. Of the bundle that
a SuperLink sends nothing is run: the node's app is the one that is installed here.
"""

import argparse
import fcntl
import os
import secrets
import signal
import ssl
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}  # before Flower is imported

import httpx
from flwr.app import Context, Message
from flwr.supernode.runtime import run_clientapp

from infra.errors import AlreadyRunning, InputError, NightshiftError
from infra.inert import visible
from infra.objects.manifest import scan
from jobs.federated import client
from jobs.federated.federation import DATA_FOLDER, NODE_KEY, start_node
from jobs.federated.invitation import Invite
from jobs.federated.keys import AUTHORITY, make_certificates, make_node_key, write_private
from jobs.federated.processes import end, ended
from jobs.federated.remote import KNOCK

SECONDS_BETWEEN = 2.0
PATIENCE = 5
"""Knocks without an answer, after which the door is closed and the node is ended."""
MOST_AHEAD, MOST_BEHIND = 4.0, 240.0
"""Seconds by which a tenant's clock may differ: Flower refuses signatures that are 5 s in the
future or 305 s old."""
PUBLIC_KEY = "key.pub"


class Node:
    """The node of one tenant in `place`, with what `tell` prints for people; `base` is its copy of
    a language model, a folder or hub id, and with `only_sums` it trains for sums of many only."""

    def __init__(
        self, place: Path, data: Path, tell: Callable[[str], None], base: str, only_sums: bool
    ) -> None:
        self.place, self.tell, self.base, self.only_sums = place, tell, base, only_sums
        self.identity = identity_of(base)
        self.invite = Invite.model_validate_json((place / "invite.json").read_text())
        if not (place / PUBLIC_KEY).exists():
            public = make_node_key(place / NODE_KEY)
            write_private(place / PUBLIC_KEY, public)
        self.public_key = (place / PUBLIC_KEY).read_text()
        make_certificates(place)  # of its own apps; the federation's has a folder of its own
        write_private(place / "secret", secrets.token_bytes(32))
        (place / "federation").mkdir(exist_ok=True)
        write_private(place / "federation" / AUTHORITY, self.invite.ca.encode())
        (place / DATA_FOLDER).unlink(missing_ok=True)
        (place / DATA_FOLDER).symlink_to(data)
        trusted = ssl.create_default_context(cadata=self.invite.ca)
        self.door = httpx.Client(
            base_url=f"https://{self.invite.address}", verify=trusted, timeout=20, trust_env=False
        )
        self.pids: list[int] = []
        self.session = ""
        self.silent = 0
        self.said = ""

    def hold(self) -> NoReturn:
        """Until it is told to end. Raises InputError where the tenant is refused."""
        while True:
            self.look()
            time.sleep(SECONDS_BETWEEN)

    def look(self) -> None:
        """Knock once, and start or end the node as the answer says."""
        began = time.time()
        answer = self._knock(began)
        if answer is None:
            self.silent += 1
            if self.silent >= PATIENCE:
                self.stop()
            return
        self.silent = 0
        if fault := clock_fault(began, time.time(), float(answer["time"])):
            self._say(fault)
            self.stop()
            return
        dead = any(ended(pid) for pid in self.pids)
        if dead:
            self._say("the node has died and is started again")
        if dead or answer["session"] != self.session:
            self.stop()
            self._start()
            self.session = answer["session"]

    def stop(self) -> None:
        """End the processes of the node."""
        end(self.pids)
        self.pids, self.session = [], ""

    def _start(self) -> None:
        authority = self.place / "federation" / AUTHORITY
        self.pids = start_node(
            self.place,
            self.invite.address,
            authority,
            self.place,
            self.base,
            self.identity,
            only_sums=self.only_sums,
        )
        self._say(f"{self.invite.tenant} is in the federation {self.invite.federation}")

    def _knock(self, now: float) -> dict[str, Any] | None:
        """The answer of the door; None where nobody answers. Raises InputError."""
        told = {
            "tenant": self.invite.tenant,
            "token": self.invite.token.get_secret_value(),
            "public_key": self.public_key,
            "clock": now,
        }
        where = f"{self.invite.federation} at {self.invite.address}"
        try:
            answer = self.door.post(KNOCK, json=told)
            content = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                self._say(f"who answers at {self.invite.address} is not the invite's federation")
            elif self.silent + 1 >= PATIENCE or not self.said:
                self._say(f"waiting for {where}: it opens while a run is on")
            return None
        if answer.status_code == 403 and "refused" in content:
            raise InputError(
                f"INVITE: {visible(str(content['refused']))[:200]}",
                f"Ask the owner of {self.invite.federation} for another invite.",
            )
        if answer.status_code != 200:
            self._say(f"{where} answers with status {answer.status_code}")
            return None
        return content

    def _say(self, text: str) -> None:
        """Print it, unless it was said last."""
        if text != self.said:
            self.tell(text)
        self.said = text


def identity_of(base: str) -> str:
    """What the owner's model and a tenant's copy have in common: the sha256 of a folder's content,
    or the hub id."""
    return scan(Path(base)).sha256 if base and Path(base).is_dir() else base


def clock_fault(before: float, after: float, theirs: float) -> str | None:
    """What is wrong with this machine's clock: Unix seconds here, before and after the federation
    said its own."""
    off = 0.0
    if before - theirs > MOST_AHEAD:
        off = before - theirs
    elif theirs - after > MOST_BEHIND:
        off = after - theirs
    if not off:
        return None
    way = "ahead of" if off > 0 else "behind"
    return (
        f"this machine's clock is {abs(off):.0f} s {way} the federation's, whose SuperLink would "
        "refuse it: set it"
    )


def run_only_ours(tell: Callable[[str], None]) -> None:
    """Let no app but `client` run in this process and its forks, whatever bundle comes."""

    def answer(message: Message, context: Context) -> Message:
        number = "?"
        try:
            number = message.content.config_records["config"]["round"]
            reply = client.app(message, context)
        except Exception as error:
            traceback.print_exc()  # in the node's log; the federation hears its kind only
            tell(f"round {number}: failed ({type(error).__name__})")
            raise RuntimeError(type(error).__name__) from None
        refusal = reply.content.config_records.get("refusal")
        if refusal is None:
            tell(f"round {number}: answered")
        else:
            tell(f"round {number}: left out, the data: {refusal['reason']}")
        return reply

    run_clientapp.install_from_fab = lambda *_, **__: None
    run_clientapp.get_load_client_app_fn = lambda *_, **__: lambda *_, **__: answer


def teller() -> Callable[[str], None]:
    """Prints on the standard output that this process has now, also where a fork has another."""
    terminal = os.dup(1)

    def tell(text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {visible(text)}\n"
        os.write(terminal, line.encode(errors="replace"))

    return tell


def main() -> None:
    """Hold the node of PLACE with DATA until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--secure-aggregation", action="store_true")
    parser.add_argument("place", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("base", nargs="?", default="")
    told = parser.parse_args()
    if told.base:
        from jobs.federated import adapters  # noqa: F401 - torch, once for all forks
    for one in (signal.SIGINT, signal.SIGTERM):  # a shell's background process would ignore Ctrl-C
        signal.signal(one, signal.default_int_handler)
    try:
        with (told.place / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunning(
                    "this invite is in use by another process here", "End that one first."
                ) from None
            tell = teller()
            run_only_ours(tell)
            node = Node(told.place, told.data, tell, told.base, told.secure_aggregation)
            try:
                node.hold()
            finally:
                node.stop()
    except KeyboardInterrupt:
        sys.exit(130)
    except NightshiftError as error:
        print(f"✗ {error.message}\n  → {error.remedy}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
