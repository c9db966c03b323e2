"""Federated rounds: a federation trains one model with the data of several tenants.

    python -m jobs.federated.train JOB_FOLDER

In: optionally `champion`, the model to go on from, and `base`, a language model to adapt. Out:
`candidate`, the model; `rounds` and `evaluation`, JSON lines of what happened and of how each
tenant judges the result. The tenants' files are read where they lie, by the node of each tenant
alone: here, or with `door` elsewhere.
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
}  # before Flower is imported

import httpx
import numpy as np

from infra.errors import InputError, JobFailed
from jobs.federated import accountant
from jobs.federated.config import FederatedConfig
from jobs.federated.federation import Broken, LocalFederation, SuperLink
from jobs.federated.kinds import Kind, kind_of
from jobs.federated.processes import ended, fork
from jobs.federated.remote import OpenFederation
from jobs.federated.server import NODES, OUTCOME, rounds_of
from jobs.federated.state import State
from jobs.federated.weights import ARRAYS, write_weights
from jobs.runtime import Job, Outcome, main, stop_when_told, write_whole

STARTS = 4
"""Of a federation whose SuperLink or ServerApp dies, without a round finished in between."""


def program(job: Job[FederatedConfig]) -> Outcome:
    """Train, and return what was made; raises InputError where too few tenants take part."""
    config = job.config
    kind = kind_of(config)  # imported before processes are forked
    if config.centralised:
        _train_centralised(job, kind)
    job.latest_checkpoint()
    resumed_from = job.resumed_from
    outcome, moved = _outcome(job)
    saved = job.latest_checkpoint()
    job.resumed_from = resumed_from  # what this start began from, not where it ended
    if saved is None or "error" in outcome:
        raise InputError(outcome["error"], outcome["remedy"])
    state = State.read(saved[1])
    candidate = kind.write(job, state.weights, job.folder / "candidate")
    evaluation = [{"tenant": name} | row for name, row in sorted(outcome["evaluation"].items())]
    return Outcome(
        metrics={
            "rounds": float(state.number),
            "tenants": float(len({name for row in state.log for name in row["took_part"]})),
            "round_seconds": float(np.mean([row["seconds"] for row in state.log])),
            **moved,
            **_quantisation(config),
        },
        artifacts={
            "candidate": candidate,
            "rounds": _lines(job.folder / "rounds.jsonl", state.log),
            "evaluation": _lines(job.folder / "evaluation.jsonl", evaluation),
            "privacy": _lines(job.folder / "privacy.jsonl", _privacy(job, state)),
        },
    )


def _outcome(job: Job[FederatedConfig]) -> tuple[dict[str, Any], dict[str, float]]:
    """What the ServerApp left, and the bytes that were moved since the last start.

    A federation that breaks is made anew and goes on at its last finished round.
    """
    (job.scratch / OUTCOME).unlink(missing_ok=True)
    broken, before = 0, -1
    while True:
        try:
            return _federate(job)
        except (Broken, httpx.HTTPError) as error:  # HTTP: it died while it was asked
            saved = job.latest_checkpoint()
            at = saved[0] if saved else 0
            broken = broken + 1 if at == before else 1
            before = at
            print(f"the federation broke after round {at}: {error}", flush=True)
            if broken == STARTS:
                raise JobFailed(
                    f"the federation broke {STARTS} times after round {at}: {error}",
                    f"Read the logs in {job.scratch / 'federation'}.",
                ) from error


def _federate(job: Job[FederatedConfig]) -> tuple[dict[str, Any], dict[str, float]]:
    config, outcome = job.config, job.scratch / OUTCOME
    federation = _federation(job)
    try:
        federation.start()
        write_whole(job.scratch / NODES, json.dumps(federation.names))
        run = federation.run(job.folder)
        while not outcome.exists():
            stop_when_told(job)
            moved = federation.look(run)
            if config.door:  # whose tenants come and go
                write_whole(job.scratch / NODES, json.dumps(federation.names))
            time.sleep(1)
        moved = federation.look(run)
        return json.loads(outcome.read_text()), moved
    finally:
        federation.stop()


def _federation(job: Job[FederatedConfig]) -> SuperLink:
    """The tenants' nodes on this machine, or the open door of those that are elsewhere."""
    config, folder = job.config, job.scratch / "federation"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    os.environ["FLWR_HOME"] = str(folder / "home")
    if config.door:
        return OpenFederation(folder, job)
    tenants = {name: Path(config.tenants) / name for name in config.names}
    return LocalFederation(folder, tenants, kind_of(config).base_of(job))


def _train_centralised(job: Job[FederatedConfig], kind: Kind) -> None:
    """Make a model of all tenants' rows together, for comparison; a tenant with wrong data is not
    in. A process of its own does it, so that this one has no threads when it forks more."""
    config, folder = job.config, job.scratch / "centralised"

    def train() -> None:
        data = []
        for name in config.names:
            try:
                data.append(kind.load(config, Path(config.tenants) / name))
            except InputError:
                continue  # its own node says what is wrong
        learner = kind.learner(config, kind.base_of(job), kind.together(data))
        write_weights(folder, learner.alone(), config)

    pid = fork(train, [])
    while not ended(pid):
        stop_when_told(job)
        time.sleep(0.1)
    if not (folder / ARRAYS).exists():
        raise JobFailed("the model of all rows was not made", "Read the job's log.")


def _quantisation(config: FederatedConfig) -> dict[str, float]:
    """Of secure aggregation: in what range, and in what steps, values of updates were summed."""
    if not config.rounds.secure_aggregation:
        return {}
    step = config.quantisation_step
    return {"clipping_range": config.clipping_range, "quantisation_step": step}


def _privacy(job: Job[FederatedConfig], state: State) -> list[dict[str, Any]]:
    """By tenant: rounds of this run, and the epsilon of all nights."""
    config, privacy = job.config, job.config.privacy
    if not privacy.noise_multiplier:
        return []
    rows = []
    for name in config.names:
        rounds = rounds_of(job, state, name)
        spent = [*config.spent.get(name, []), config.spends(rounds)]
        total = accountant.epsilon(spent, privacy.delta, privacy.privacy_unit)
        rows.append({"tenant": name, "rounds": rounds, "epsilon": total})
    return rows


def _lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


if __name__ == "__main__":
    main(FederatedConfig, program)
