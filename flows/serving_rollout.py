"""Serving rollout: a challenger takes over a live endpoint, or does not, without a person.

    nightshift run serving-rollout --model mine@challenger
    nightshift run serving-rollout --model mine@3 --prompts held_out.jsonl

It is loaded beside the champion, and gets 5 %, 25 % and all of the requests. As soon as it is
surely worse in errors, latency or feedback, or anything fails, the champion has all of them again.
A rollout that was killed goes on with the same command. It launches no job.
"""

from typing import Any

from tasks.runs.capability import Capability
from tasks.serving import steps as serving
from tasks.serving.parameters import RolloutParameters
from tasks.serving.report import RolloutReport

capability = Capability[Any]("serving-rollout", steps=())


@capability.flow
def serving_rollout(parameters: RolloutParameters) -> RolloutReport:
    """Let a challenger take over a live endpoint step by step, or roll it back."""
    prompts = serving.held_out_prompts(parameters)
    return serving.roll_out(parameters.model, prompts, parameters.stages)
