"""The nightly PPO cycle: collect, train, validate, deploy, under a budget that holds.

    nightshift run nightly-ppo --model ./my-model --prompts prompts.jsonl --reward rewards.py:reward

Without a model it works on the project's own demo: designs of gears, brackets and screws. A killed
run is finished by the next one with the same parameters.
"""

from prefect import flow

from tasks import ppo
from tasks.crashed import attend
from tasks.hooks import release_compute
from tasks.plan import Step
from tasks.ppo_parameters import NightlyPPOParameters
from tasks.publish import publish_report
from tasks.report import Report
from tasks.run import begin


@flow(
    name="nightly-ppo",
    flow_run_name="nightly-ppo {parameters.name}",
    on_running=[attend],
    on_cancellation=[release_compute],
    on_crashed=[release_compute],
)
def nightly_ppo(parameters: NightlyPPOParameters) -> Report:
    """Improve a policy on the day's interactions, and promote it if it is surely better."""
    inputs = ppo.prepare_inputs(parameters)
    with begin("nightly-ppo", parameters, inputs.checksums) as night:
        inputs = ppo.complete_inputs(night, inputs)
        champion = ppo.current_champion(night, inputs)
        trajectories = ppo.collect_trajectories(night, inputs, champion)
        candidate = ppo.train_candidate(night, inputs, champion, trajectories)
        evaluation = ppo.evaluate_candidate(night, inputs, champion, candidate)
        verdict = ppo.judge_candidate(night, champion, candidate, evaluation)
        served = ppo.deploy_champion(candidate) if verdict.promote else None
        return publish_report(night, champion, candidate, evaluation, verdict, served)


def plan(parameters: NightlyPPOParameters) -> list[Step]:
    """What a night would launch, where and at which price."""
    return ppo.plan_night(parameters)
