"""The end of a training of policies: a candidate that the gate lets through becomes champion, at
once or by a rollout.

Which of both is told by a setting, NIGHTSHIFT_SERVED_MODELS, and not by whether an endpoint is up:
one that is down by chance would let a candidate pass untried.
"""

import logging

from infra.contract import JobResult
from infra.errors import AlreadyRunning, GateError, InputError, ServiceUnavailable
from infra.models.registry import ModelVersion
from infra.models.target import own_target
from infra.serving.client import Client
from infra.serving.version import champion
from infra.settings import settings
from jobs.policy.data import stored_content
from tasks.champions import announce
from tasks.champions.candidate import Deployed, deploy_champion, read_lines
from tasks.policy.parameters import SHARES, Stages
from tasks.serving.steps import roll_out

log = logging.getLogger("nightshift")


def foresee(model: str, stages: Stages) -> str:
    """What will become of a candidate of `model` that the gate lets through."""
    if model not in settings().served_models:
        return f"What passes the gate is promoted at once: NIGHTSHIFT_SERVED_MODELS lacks {model}."
    shares = ", then ".join(f"{share:.0%}" for share in SHARES)
    told = (
        f"What passes the gate is promoted by a rollout on the endpoint of {model} only: {shares} "
        f"of the requests, {stages.stage_minutes:g} minutes and {stages.stage_requests} requests "
        f"each, {stages.rollout_hours:g} hours at most."
    )
    try:
        Client(model).http.close()
    except ServiceUnavailable as error:
        told += f" Until there is one it waits as challenger: {error.message}. {error.remedy}"
    return told


def look_ahead(model: str, stages: Stages) -> None:
    """Log it where a rollout is to come, at the begin of a run."""
    if model in settings().served_models:
        log.info("%s", foresee(model, stages))


def deploy(candidate: ModelVersion, evaluation: JobResult, stages: Stages) -> Deployed:
    """Make the candidate champion and serve it; of a served model if its rollout ends well only.

    Where users ask too little, both versions are asked the held-out prompts that were judged with.
    Safe to repeat: a killed run's rollout goes on.
    """
    if candidate.model not in settings().served_models:
        return Deployed(served_from=deploy_champion(candidate))
    rows = read_lines(evaluation.artifacts["evaluation"])
    prompts = [stored_content(row["prompt"]) for row in rows]
    reference = f"{candidate.model}@{candidate.version}"
    try:
        report = roll_out(reference, prompts, stages)
    except (GateError, InputError, ServiceUnavailable, AlreadyRunning) as error:
        stays = champion(candidate.model).version
        if stays == candidate.version:  # the guard or a person has finished it
            return Deployed(served_from=deploy_champion(candidate))
        why = f"not promoted: the rollout of version {candidate.version}: {error.message}"
        log.warning("%s", why)
        announce.refused(candidate, stays, why)
        return Deployed(not_promoted=why)
    place = own_target().place(candidate.model)
    return Deployed(served_from=place, rollout=report.files["markdown"])
