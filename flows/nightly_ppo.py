"""The nightly PPO cycle: collect, train, validate, deploy, under a budget that holds.

    nightshift run nightly-ppo --model ./my-model --prompts prompts.jsonl --reward rewards.py:reward

Without a model it works on the project's own demo: designs of gears, brackets and screws. Of a
model in NIGHTSHIFT_SERVED_MODELS a candidate that the gate lets through is promoted only if its
rollout on the live endpoint ends well. A killed run is finished by the next one with the same
parameters.
"""

from tasks.champions.report import Report
from tasks.policy import KIND
from tasks.policy.champion import current_champion
from tasks.policy.gate import judge_candidate
from tasks.ppo import steps as ppo
from tasks.ppo.parameters import NightlyPPOParameters
from tasks.ppo.report import publish_report
from tasks.runs.capability import Capability
from tasks.serving.deploy import deploy, look_ahead

capability = Capability("nightly-ppo", steps=ppo.STEPS, makes=KIND)


@capability.flow
def nightly_ppo(parameters: NightlyPPOParameters) -> Report:
    """Improve a policy on the day's interactions, and promote it if it is surely better."""
    inputs = ppo.prepare_inputs(parameters)
    with capability.begin(parameters, inputs.checksums) as night:
        look_ahead(parameters.name, parameters.rollout)
        inputs = ppo.complete_inputs(night, inputs)
        champion = current_champion(night, inputs)
        trajectories = ppo.collect_trajectories(night, inputs, champion)
        candidate = ppo.train_candidate(night, inputs, champion, trajectories)
        evaluation = ppo.evaluate_candidate(night, inputs, champion, candidate)
        verdict = judge_candidate(night, champion, candidate, evaluation)
        deployed = deploy(candidate, evaluation, parameters.rollout) if verdict.promote else None
        return publish_report(night, champion, candidate, evaluation, verdict, deployed)
