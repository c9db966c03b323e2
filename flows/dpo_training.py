"""DPO training: from the feedback that users leave to a better policy, under a budget that holds.

    nightshift run dpo-training --feedback-since 24h --max-cost 20
    nightshift run dpo-training --name mine --model ./my-model --dataset pairs.jsonl

Builds the pairs, trains, judges, promotes or says why not, reports. Without feedback it ends as
'nothing to learn' and costs nothing. A killed run is finished by the next one with the same
parameters.
"""

from prefect import flow

from tasks import dpo, ppo, preferences
from tasks.crashed import attend
from tasks.dpo_parameters import DPOTrainingParameters
from tasks.hooks import release_compute
from tasks.plan import Step
from tasks.report import Notice, Report
from tasks.run import begin


@flow(
    name="dpo-training",
    flow_run_name="dpo-training {parameters.name}",
    on_running=[attend],
    on_cancellation=[release_compute],
    on_crashed=[release_compute],
)
def dpo_training(parameters: DPOTrainingParameters) -> Report | Notice:
    """Turn the feedback of users into a better policy, and promote it if it is surely better."""
    given = dpo.prepare_inputs(parameters)
    with begin("dpo-training", parameters, given.checksums) as work:
        if dpo.is_nothing(work, given):
            return preferences.nothing_to_learn(work)
        given = dpo.complete_inputs(work, given)
        champion = ppo.current_champion(work, given)
        dataset = dpo.build_dataset(work, given, champion)
        dpo.check_fit(work, given, champion, dataset)
        candidate = dpo.train_candidate(work, given, champion, dataset)
        given = dpo.train_judge(work, given, dataset)
        evaluation = dpo.evaluate_candidate(work, given, champion, candidate, dataset)
        verdict = ppo.judge_candidate(work, champion, candidate, evaluation)
        served = ppo.deploy_champion(candidate) if verdict.promote else None
        return dpo.publish_training(work, champion, candidate, dataset, evaluation, verdict, served)


def plan(parameters: DPOTrainingParameters) -> list[Step]:
    """What a training would launch, where and at which price."""
    return dpo.plan_training(parameters)
