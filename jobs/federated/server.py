"""The rounds: Flower's ServerApp. It runs as a process of its own under the SuperLink, sees weights
and counts, writes a checkpoint after each round and at last `outcome.json` for the job.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from flwr.app import ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.common.secure_aggregation.secaggplus_constants import Stage
from flwr.serverapp import Grid, ServerApp

from infra.errors import InputError, NightshiftError
from jobs.federated import accountant, secagg, strategies
from jobs.federated.client import judged_counts, record_of
from jobs.federated.config import FederatedConfig
from jobs.federated.door import NOT_CONNECTED, Door
from jobs.federated.kinds import kind_of
from jobs.federated.model import Weights
from jobs.federated.screening import fault, no_answer, screen
from jobs.federated.secagg_server import Attempt, Unsummed
from jobs.federated.state import State
from jobs.federated.weights import read_weights
from jobs.runtime import Job, write_whole

app = ServerApp()
NODES, OUTCOME, ASKED = "nodes.json", "outcome.json", "asked.json"
"""In the job's scratch folder: tenants by node, what came of the federation, and how often each
tenant was asked to train."""
LATE = "no answer in time"
TOGETHER = "all together"
"""Instead of a tenant's name, where only the sum of their counts is known."""
POLL_SECONDS = 0.5
"""Between two looks for answers; Flower's own loop takes 3, and secure aggregation has four."""
TRIES = 3
"""Rounds in a row with too few answers, after which the run ends."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Do what is left of the rounds, then have the result judged by the tenants."""
    job = Job(Path(str(context.run_config["job"])), FederatedConfig)
    nodes = json.loads((job.scratch / NODES).read_text())
    try:
        outcome = Federation(job, grid, {int(node): name for node, name in nodes.items()}).run()
    except NightshiftError as error:
        outcome = {"error": error.message, "remedy": error.remedy}
    write_whole(job.scratch / OUTCOME, json.dumps(outcome))


class Updates(NamedTuple):
    """Good answers by tenant, the counts that they tell, and why the others are left out."""

    good: dict[str, Message]
    counts: dict[str, dict[str, Any]]
    left_out: dict[str, str]


@dataclass
class Federation:
    """The tenants of one run, by node, and what the rounds have come to."""

    job: Job[FederatedConfig]
    grid: Grid
    names: dict[int, str]
    state: State = field(init=False)

    def __post_init__(self) -> None:
        self.config = self.job.config
        saved = self.job.latest_checkpoint()
        if saved:
            self.state = State.read(saved[1])
        else:
            self.state = State(kind_of(self.config).begin(self.job))
        self.strategy = strategies.make(self.config)
        self.state.remind(self.strategy)
        base = self.job.spec.checksums.get("base") or self.config.model
        own = {
            "spent": {},
            "tenants": "",
            "door": None,
            "address": None,
            "names": [],
            "model": base,
        }
        self.told = self.config.model_copy(update=own).model_dump_json()

    def run(self) -> dict[str, Any]:
        """Rounds, then the judgement; raises InputError where too few tenants answer."""
        self.wait_for_nodes()
        total = self.config.rounds.rounds
        while self.state.number < total and self._has_privacy_left():
            self.train_round(self.state.number + 1, total)
        return {"evaluation": self._judge()}

    def wait_for_nodes(self) -> None:
        """Until all are there, or for as long as a round may last."""
        self._wait_for_enough()
        end = time.monotonic() + self.config.rounds.round_seconds
        while time.monotonic() < end and self._here() < set(self.config.names):
            time.sleep(0.2)

    def _here(self) -> set[str]:
        """Tenants whose nodes are connected."""
        self.names = self._nodes()
        return {self.names[node] for node in self.grid.get_node_ids() if node in self.names}

    def _nodes(self) -> dict[int, str]:
        """Tenants by node: those that come to a door, and go, as the job knows them now."""
        if not self.config.door:
            return self.names
        nodes = json.loads((self.job.scratch / NODES).read_text())
        return {int(node): name for node, name in nodes.items()}

    def _wait_for_enough(self) -> None:
        """Pause while fewer tenants than a round needs are there, and say so: those of other
        machines come when they can. The job's window and budget bound it."""
        said = None
        while self.config.door:
            here, fewest = self._here(), self.config.rounds.minimum_tenants
            if len(here) >= fewest:
                return
            if here != said:
                away = ", ".join(sorted(set(self.config.names) - here))
                message = f"tenants: {len(here)} of the {fewest} needed are there, not {away}"
                self.job.progress(self.state.number, self.config.rounds.rounds, message)
                said = here
            time.sleep(1)

    def train_round(self, number: int, total: int) -> None:
        """One round, and its checkpoint."""
        began = time.time()
        good, counts, left_out = self._enough_updates(number)
        row = {
            "round": number,
            "took_part": sorted(good),
            "left_out": left_out,
            "counts": counts,
        }
        if self.config.privacy.of_tenants:
            row["clipping_norm"] = strategies.clipping_norm(self.strategy, self.config)
        weights, answers = self.state.weights, list(good.values())
        self.state.weights = strategies.aggregate(
            self.strategy, self.config, number, weights, answers
        )
        self.state.remember(self.strategy)
        for name in good:
            self.state.heard(name)
        for name, reason in left_out.items():
            if reason.startswith(LATE):
                self.state.silent(name)
        self.state.number = number
        self.state.log.append(row | {"seconds": time.time() - began})
        self.job.save_checkpoint(number, self.state.write)
        told = counts.values()
        share = sum(c["right"] for c in told) / sum(c["held-out"] for c in told)
        measure = "recall_before" if self.config.group else "accuracy_before"
        message = f"left out: {_told(left_out)}" if left_out else ""
        values = {measure: share, "tenants": float(len(good))}
        self.job.progress(number, total, message, **values)

    def _enough_updates(self, number: int) -> Updates:
        """As `_ask_for_updates`, again a bounded number of times where too few answer.

        Raises InputError, with the reason of each, where they still do not.
        """
        fewest = self.config.rounds.minimum_tenants
        found = Updates({}, {}, {})
        for _ in range(TRIES):
            self._wait_for_enough()
            found = self._ask_for_updates(number)
            if len(found.good) >= fewest:
                return found
        raise InputError(
            f"round {number}: {len(found.good)} tenants took part, {fewest} are needed; "
            f"left out: {_told(found.left_out)}",
            "Mend what is said of them, or allow fewer with --minimum-tenants.",
        )

    def _ask_for_updates(self, number: int) -> Updates:
        left_out = self._unreachable(number) | self._spent()
        asked = [name for name in self.names.values() if name not in left_out]
        remember_asked(self.job, asked)
        if self.config.rounds.secure_aggregation:
            return self._sum_updates(number, asked, left_out)
        content = {"arrays": record_of(self.state.weights)}
        replies = self._send(MessageType.TRAIN, number, dict.fromkeys(asked, content))
        bound = self.config.rounds.norm_bound
        good, refused = screen(replies, self.names, number, self.state.weights, bound)
        silent = {name: LATE for name in asked if name not in good and name not in refused}
        counts = {n: dict(r.content.metric_records["metrics"]) for n, r in good.items()}
        return Updates(good, counts, left_out | refused | silent)

    def _sum_updates(self, number: int, asked: list[str], left_out: dict[str, str]) -> Updates:
        """By secure aggregation: instead of its own update each answer has the mean of all.

        Raises InputError where the sum is wrong: asking again would show differences of sums.
        """
        sent, fewest = self.state.weights, self.config.rounds.minimum_tenants

        def ask(
            stage: str, told: dict[str, ConfigRecord]
        ) -> tuple[dict[str, Message], dict[str, str]]:
            first = {"arrays": record_of(sent)} if stage == Stage.SETUP else {}
            contents = {name: {secagg.RECORD: each, **first} for name, each in told.items()}
            replies = self._send(MessageType.TRAIN, number, contents)
            answers = {self.names[r.metadata.src_node_id]: r for r in replies}
            reasons = dict.fromkeys(told.keys() - answers.keys(), f"{LATE} to {stage}")
            reasons |= {n: why for n, r in answers.items() if (why := no_answer(r, number))}
            return {n: r for n, r in answers.items() if n not in reasons}, reasons

        attempt = Attempt(ask, asked, fewest, secagg.size(sent))
        try:
            total, good = attempt.sum()
        except Unsummed as error:
            why = dict.fromkeys(asked, f"it was not summed: {error}")
            return Updates({}, {}, left_out | why | attempt.left_out)
        found = secagg.unpack(total, len(good), sent, self.config)
        mean = {name: sent[name] + found.update[name] for name in sent}
        for reply in good.values():
            reply.content = RecordDict(
                {"arrays": record_of(mean), "metrics": MetricRecord({"num-examples": 1.0})}
            )
        counts = {TOGETHER: {"right": float(found.right), "held-out": float(found.held_out)}}
        dropped = {n: why for n, why in attempt.left_out.items() if n not in good}
        return Updates(good, counts, left_out | dropped)

    def _unreachable(self, number: int) -> dict[str, str]:
        """Whose node is not asked in this round, and why."""
        here = self._here()
        door = Door(Path(self.config.door)) if self.config.door else None
        reasons = {
            name: door.absence(name) if door else NOT_CONNECTED
            for name in set(self.config.names) - here
        }
        again = {name: at for name, at in self.state.asked_again.items() if number < at}
        if len(here - set(again)) >= self.config.rounds.minimum_tenants:  # else all are needed
            for name, at in again.items():
                reasons[name] = f"no answer lately; asked again in round {at}"
        return reasons

    def _spent(self) -> dict[str, str]:
        """Tenants without privacy left for one more round, of the budget or of what was written
        down for this run."""
        privacy, reasons = self.config.privacy, {}
        if not privacy.noise_multiplier:
            return {}
        for name in self.config.names:
            done, before = rounds_of(self.job, self.state, name), self.config.spent.get(name, [])
            if done >= self.config.rounds.rounds:
                reasons[name] = f"it was asked {done} times: no more of its privacy is reserved"
            elif not accountant.fits([*before, self.config.spends(done + 1)], privacy):
                spent = [*before, self.config.spends(done)]
                used = accountant.epsilon(spent, privacy.delta, privacy.privacy_unit)
                reasons[name] = (
                    f"its privacy is spent: epsilon {used:.2f} of {privacy.max_epsilon:g}, and one "
                    "more round would exceed that"
                )
        return reasons

    def _has_privacy_left(self) -> bool:
        """Whether enough tenants may take part in another round; what was trained is judged where
        they may not. The first round is tried in any case: its error names them."""
        spent, fewest = self._spent(), self.config.rounds.minimum_tenants
        if not self.state.number or len(set(self.config.names) - set(spent)) >= fewest:
            return True
        message = f"ends: fewer than {fewest} tenants have privacy left; {_told(spent)}"
        self.job.progress(self.state.number, self.config.rounds.rounds, message)
        return False

    def _send(self, kind: str, number: int, contents: dict[str, dict[str, Any]]) -> list[Message]:
        """The answers that come in time to messages with these records, by tenant."""
        seconds = self.config.rounds.round_seconds
        told = ConfigRecord({"job": self.told, "round": number})
        messages = [
            Message(
                RecordDict({**contents[name], "config": told}),
                message_type=kind,
                dst_node_id=node,
                ttl=seconds,
                group_id=str(number),
            )
            for node, name in self.names.items()
            if name in contents
        ]
        replies = self._gather(messages, seconds)
        # what the SuperLink says itself, of messages that are too old, is no tenant's answer
        return [reply for reply in replies if reply.metadata.src_node_id in self.names]

    def _gather(self, messages: list[Message], seconds: float) -> list[Message]:
        """The answers that come in time; a node elsewhere that is gone is not waited for."""
        nodes = [message.metadata.dst_node_id for message in messages]
        waited = dict(zip(self.grid.push_messages(messages), nodes, strict=False))
        replies: list[Message] = []
        end = time.monotonic() + seconds
        while waited and time.monotonic() < end and set(waited.values()) & set(self._nodes()):
            found = list(self.grid.pull_messages(list(waited)))
            for reply in found:
                waited.pop(reply.metadata.reply_to_message_id, None)
            replies += found
            time.sleep(POLL_SECONDS if waited else 0)
        return replies

    def _judge(self) -> dict[str, dict[str, Any]]:
        """By tenant: counts of its held-out rows, or a refusal in words."""
        content = {"arrays": record_of(self.state.weights)}
        for other in ("champion", "centralised"):
            if path := self._other(other):
                content[other] = record_of(path)
        models = ["candidate", "local", *(name for name in content if name != "arrays")]
        counts_told = judged_counts(self.config, models)
        number = self.config.rounds.rounds + 1
        self._wait_for_enough()
        unreachable = self._unreachable(number)
        asked = [name for name in self.names.values() if name not in unreachable]
        found: dict[str, dict[str, Any]] = {
            name: {"refused": reason} for name, reason in unreachable.items()
        }
        for reply in self._send(MessageType.EVALUATE, number, dict.fromkeys(asked, content)):
            tenant = self.names[reply.metadata.src_node_id]
            reason = fault(reply, number, counts_told)
            counts = {"refused": reason} if reason else reply.content.metric_records["metrics"]
            found[tenant] = dict(counts)
        for name in self.names.values():
            found.setdefault(name, {"refused": LATE})
        if all("refused" in row for row in found.values()):
            reasons = {name: row["refused"] for name, row in found.items()}
            raise InputError(
                f"no tenant could judge the result: {_told(reasons)}",
                "Mend what is said of them; the same command begins anew.",
            )
        return found

    def _other(self, name: str) -> Weights | None:
        """The champion, or the model of all data that the job has made for a simulation."""
        if name == "centralised":
            path = self.job.scratch / name
            return read_weights(path) if path.exists() else None
        return kind_of(self.config).champion(self.job)


def rounds_of(job: Job[FederatedConfig], state: State, tenant: str) -> int:
    """How many rounds of this run have spent the tenant's privacy: of tenants, those whose mean it
    is in; of records, each for which it was asked, whatever came of its answer."""
    if job.config.privacy.of_records:
        return _asked(job).get(tenant, 0)
    return sum(tenant in row["took_part"] for row in state.log)


def remember_asked(job: Job[FederatedConfig], tenants: list[str]) -> None:
    """Before they are asked to train, so that an answer is counted whoever dies then."""
    before = _asked(job)
    counts = before | {name: before.get(name, 0) + 1 for name in tenants}
    write_whole(job.scratch / ASKED, json.dumps(counts))


def _asked(job: Job[FederatedConfig]) -> dict[str, int]:
    path = job.scratch / ASKED
    return json.loads(path.read_text()) if path.exists() else {}


def _told(reasons: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in sorted(reasons.items())) or "nobody"
