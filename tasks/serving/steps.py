"""The steps of a rollout: check, load beside the champion, try out, give it more, promote.

Whatever fails, the champion has all requests again within seconds: the endpoint looks at the
rollout once a second, and gives a challenger nothing that nobody judges.
"""

import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import httpx
import psycopg
from prefect import task
from prefect.cache_policies import NO_CACHE
from psycopg_pool import PoolTimeout

from infra import database
from infra.contract import CANARY_SIDE, CHAMPION_SIDE
from infra.database import Pool
from infra.errors import GateError, InputError, NightshiftError, ServiceUnavailable
from infra.models import registry, verdicts
from infra.models.registry import ModelVersion
from infra.records import rollouts
from infra.records.rollouts import Rollout
from infra.serving.client import Client, Prompt
from infra.serving.version import KIND, champion, fetched
from jobs.policy.data import read_prompts
from tasks.champions import announce
from tasks.champions.rollouts import challenger, complete, lock, take_back
from tasks.policy.parameters import SHARES, Stages
from tasks.runs.given import require_file
from tasks.serving.parameters import RolloutParameters
from tasks.serving.report import RolloutReport, publish, report_file
from tasks.serving.sequential import ALARM, Comparison

log = logging.getLogger("nightshift")

SMOKE: tuple[Prompt, ...] = ("Hello", "What is 2 + 2?", "a")
"""What the challenger is asked first where no held-out prompts are given."""
SMOKE_PROMPTS = 5
TOKENS = 32
"""Of an answer to our own prompts, at most."""
LOOK_SECONDS = 1.0
DOWN_SECONDS = 30
"""An endpoint that does not answer for so long ends the rollout."""
LOAD_SECONDS = 1800
"""Until the challenger is loaded, with a second replica where it is the first adapter."""
DRAIN_SECONDS = 300
"""The longest that an answer may take."""


@dataclass
class Work:
    """A rollout at work. `compared`: share → pairs of requests of its stage; `deadline` in
    monotonic seconds."""

    pool: Pool
    rollout: Rollout
    client: Client
    prompts: list[Prompt]
    stages: Stages
    deadline: float
    comparison: Comparison = field(default_factory=Comparison)
    compared: dict[float, int] = field(default_factory=dict)
    last_outcome: int = 0
    last_opinion: int = 0
    """The interaction and the feedback that were compared last."""
    last_answer: float = field(default_factory=time.monotonic)
    """When the endpoint last answered, in monotonic seconds."""

    def move(self, state: rollouts.State, share: float) -> None:
        moved = rollouts.move(self.pool, self.rollout, state, share)
        if moved is None:
            raise _ended(rollouts.watch(self.pool, self.rollout))
        self.rollout = moved


def roll_out(reference: str, prompts: list[Prompt], stages: Stages) -> RolloutReport:
    """Let the version NAME@challenger or NAME@NUMBER take over its model's endpoint step by step.

    Raises AlreadyRunning where another process is at a rollout of the model, ServiceUnavailable
    without an endpoint, InputError for what cannot be its champion, GateError for a challenger that
    is rolled back, and IntegrityError for files of it that do not match their checksum.
    """
    name, _, wanted = reference.partition("@")
    with lock(name):
        decided = finish_decided(name)
        if decided and wanted in ("challenger", decided.challenger):
            return publish(decided, {}, None)
        client, version = check(reference)
        with begin(stages, client, prompts, version) as work:
            load(work)
            for share in SHARES:
                watch(work, share)
            promote(work)
        return publish(work.rollout, work.compared, work.comparison)


@task(name="finish what was decided", cache_policy=NO_CACHE)
def finish_decided(model: str) -> Rollout | None:
    """The model's rollout that an earlier process had decided and not finished; finished now."""
    pool = database.pool()
    for left in rollouts.unended(pool, model):
        if left.state == "promoting":
            return _complete(pool, left)
    return None


def _complete(pool: Pool, rollout: Rollout) -> Rollout:
    """The rollout as it ended; raises GateError where it was ended or rolled back instead."""
    ended = complete(pool, rollout) or rollouts.watch(pool, rollout)
    if ended.state != "finished":
        raise _ended(ended)
    announce.promoted(challenger(ended))
    return ended


@task(name="read prompts", cache_policy=NO_CACHE)
def held_out_prompts(parameters: RolloutParameters) -> list[Prompt]:
    """What both versions are asked where users ask too little."""
    if parameters.prompts is None:
        return []
    path = require_file("--prompts", parameters.prompts)
    return [one.content for one in read_prompts(path, "--prompts")]


@task(name="check", cache_policy=NO_CACHE)
def check(reference: str) -> tuple[Client, ModelVersion]:
    """The endpoint and the challenger.

    Raises InputError, GateError without a verdict, and ServiceUnavailable without an endpoint.
    """
    version = registry.named(reference)
    if version.kind != KIND:
        raise InputError(
            f"{version.model} is a {version.kind}, no {KIND}",
            "`nightshift models list` shows what there is.",
        )
    now = champion(version.model)
    if version.version == now.version:
        raise InputError(
            f"version {now.version} of {now.model} is champion already",
            f"Give --model {now.model}@NUMBER; `nightshift models list {now.model}` shows them.",
        )
    if version.base != now.base:
        raise InputError(
            f"version {version.version} stands on another base than the champion",
            "One engine has one base, so that no canary is possible: `nightshift models promote`.",
        )
    verdicts.require(database.pool(), version.model, version.version)
    return Client(version.model), version


@contextmanager
def begin(
    stages: Stages, client: Client, prompts: list[Prompt], version: ModelVersion
) -> Iterator[Work]:
    """Begin a rollout, or go on with one of this challenger that was killed; any other is rolled
    back. So is this one where anything goes wrong.

    Raises IntegrityError for files of the challenger that do not match their checksum.
    """
    pool, now = database.pool(), champion(version.model).version
    with closing(client.http):
        fetched(version)
        mine = None
        for left in rollouts.unended(pool, version.model):
            if (left.champion, left.challenger) == (now, version.version):
                mine = rollouts.watch(pool, left)
            else:
                take_back(pool, left, "another rollout has begun")
        if mine is None:
            mine = rollouts.begin(pool, version.model, now, version.version)
        deadline = time.monotonic() + 3600 * stages.rollout_hours
        work = Work(pool, mine, client, prompts, stages, deadline)
        try:
            yield work
        except BaseException as error:
            _roll_back(work, error)
            raise


def _roll_back(work: Work, error: BaseException) -> None:
    """Unless it is decided: what is not finished then the next start finishes, or the guard."""
    if work.rollout.state == "promoting":
        return
    reason = error.message if isinstance(error, NightshiftError) else type(error).__name__
    try:
        ended = take_back(work.pool, work.rollout, reason)
    except (psycopg.OperationalError, PoolTimeout, NightshiftError) as away:
        log.warning("the rollout lapses by itself, since the database is away: %s", away)
    else:
        work.rollout = ended or rollouts.watch(work.pool, work.rollout)
        publish(work.rollout, work.compared, work.comparison)
        log.warning("rolled back: %s; %s", reason, report_file(work.rollout))


@task(name="load", cache_policy=NO_CACHE)
def load(work: Work) -> None:
    """Have the challenger loaded beside the champion, and ask it a few prompts.

    Raises GateError for one that cannot be served, or answers nothing.
    """
    _await(work, work.rollout.share)
    said = []
    for prompt in itertools.islice(work.prompts or SMOKE, SMOKE_PROMPTS):
        try:
            answer = work.client.ask(CANARY_SIDE, prompt, TOKENS)
        except httpx.HTTPError as error:
            raise GateError(f"a smoke prompt got no answer: {error!r}") from None
        if answer.status_code != 200:
            raise GateError(f"a smoke prompt was refused: {answer.text[:300]}")
        choice = answer.json()["choices"][0]
        said.append(choice["text"] if "text" in choice else choice["message"]["content"])
    if not any(said):
        raise GateError("the challenger answers nothing to all smoke prompts")


@task(name="canary", cache_policy=NO_CACHE)
def watch(work: Work, share: float) -> None:
    """Give the challenger its share until a stage has had its time and its requests.

    Raises GateError as soon as it is worse, and for too few requests.
    """
    if share < work.rollout.share:  # a stage that was passed before this process began
        return
    work.move("canary", share)
    _await(work, share)
    told, began, before = work.stages, time.monotonic(), work.comparison.pairs
    log.info("version %s gets %.0f %% of the requests", work.rollout.challenger, 100 * share)
    prompts = itertools.cycle(work.prompts)
    while True:
        _look(work)
        minutes = (time.monotonic() - began) / 60
        work.compared[share] = work.comparison.pairs - before
        enough = work.compared[share] >= told.stage_requests
        if enough and minutes >= told.stage_minutes:
            return
        if time.monotonic() > work.deadline:
            raise GateError(
                f"the rollout was not over after {told.rollout_hours:g} h",
                "Raise --rollout-hours, or lower --stage-requests.",
            )
        if enough or minutes < told.stage_minutes + told.wait_minutes:
            time.sleep(LOOK_SECONDS)
        elif work.prompts:
            _ask_both(work, next(prompts))
        else:
            raise GateError(
                f"too few requests to judge version {work.rollout.challenger}: "
                f"{work.compared[share]} of {told.stage_requests} at {share:.0%}",
                "Give held-out prompts with --prompts, or longer stages.",
            )


def _ask_both(work: Work, prompt: Prompt) -> None:
    """Ask the champion, then the challenger. What becomes of it the endpoint records."""
    for side in (CHAMPION_SIDE, CANARY_SIDE):
        try:
            answer = work.client.ask(side, prompt, TOKENS)
        except httpx.HTTPError as error:
            log.warning("a held-out prompt got no answer: %r", error)
            time.sleep(LOOK_SECONDS)
        else:
            if 400 <= answer.status_code < 500:
                raise GateError(
                    f"the endpoint refuses a held-out prompt: {answer.text[:300]}",
                    "Leave it out of the held-out prompts.",
                )


def _await(work: Work, share: float) -> None:
    """Until the endpoint serves both versions with this share. Raises GateError."""
    wanted = work.rollout.champion, work.rollout.challenger, share
    deadline = time.monotonic() + LOAD_SECONDS
    while True:
        told = _look(work)
        if told is not None:
            versions = (one["version"] if one else None for one in (told["live"], told["canary"]))
            if (*versions, told["share"]) == wanted:
                return
        if time.monotonic() > deadline:
            raise GateError(f"the endpoint has not loaded it within {LOAD_SECONDS} s")
        time.sleep(LOOK_SECONDS / 4)


def _look(work: Work) -> dict | None:
    """Look at the rollout, the endpoint and all new answers once; what the endpoint tells.

    Raises GateError where anything says that the challenger must not go on.
    """
    work.rollout = rollouts.watch(work.pool, work.rollout)
    if work.rollout.ended_at is not None:
        raise _ended(work.rollout)
    told = _state(work)
    for outcome in rollouts.outcomes(work.pool, work.rollout, work.last_outcome):
        work.comparison.add_outcome(outcome)
        work.last_outcome = outcome.id
    for opinion in rollouts.opinions(work.pool, work.rollout, work.last_opinion):
        work.comparison.add_opinion(opinion)
        work.last_opinion = opinion.id
    if (name := work.comparison.worse()) is not None:
        measure = work.comparison.measures[name]
        raise GateError(
            f"version {work.rollout.challenger} is worse by its {name}: in {measure.worse} pairs, "
            f"better in {measure.better}; evidence {measure.largest:.0f}, at most {ALARM:.0f}"
        )
    return told


def _state(work: Work) -> dict | None:
    """What the endpoint tells; None while it does not answer for a moment."""
    try:
        told = work.client.state()
    except ServiceUnavailable as error:
        if time.monotonic() - work.last_answer > DOWN_SECONDS:
            raise GateError(f"{error.message}, for {DOWN_SECONDS} s", error.remedy) from None
        return None
    work.last_answer = time.monotonic()
    refused, live = told["refused"], told["live"]
    if refused is not None and refused["version"] == work.rollout.challenger:
        raise GateError(f"the endpoint cannot serve it: {told['error']}")
    if live["version"] != work.rollout.champion:
        raise GateError(f"version {live['version']} became champion meanwhile")
    return told


def _ended(rollout: Rollout) -> GateError:
    return GateError(f"{rollout} was ended: {rollout.reason}")


@task(name="promote", cache_policy=NO_CACHE)
def promote(work: Work) -> None:
    """Let the challenger be champion, and wait until the old one has answered what it began."""
    work.move("promoting", 1)
    ended = work.rollout = _complete(work.pool, work.rollout)
    old = ended.champion
    deadline = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < deadline:
        try:
            told = work.client.state()
        except ServiceUnavailable:  # it starts with the new champion, whenever it does
            return
        if told["live"]["version"] == ended.challenger and not told["under_way"].get(old):
            return
        time.sleep(LOOK_SECONDS / 4)
    log.warning("version %s had not answered all that it began after %s s", old, DRAIN_SECONDS)
