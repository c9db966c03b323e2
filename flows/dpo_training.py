"""DPO training: from the feedback that users leave to a better policy, under a budget that holds.

    nightshift run dpo-training --feedback-since 24h --max-cost 20
    nightshift run dpo-training --name mine --model ./my-model --dataset pairs.jsonl

Builds the pairs, trains, judges, promotes or says why not, reports. Of a model in
NIGHTSHIFT_SERVED_MODELS a candidate that the gate lets through is promoted only if its rollout on
the live endpoint ends well. Without feedback it ends as 'nothing to learn' and costs nothing. A
killed run is finished by the next one with the same parameters.
"""

from tasks.champions.report import Report
from tasks.dpo import feedback, preferences
from tasks.dpo import steps as dpo
from tasks.dpo.parameters import DPOTrainingParameters
from tasks.dpo.report import publish_training
from tasks.policy import KIND
from tasks.policy.champion import current_champion
from tasks.policy.gate import judge_candidate
from tasks.runs.capability import Capability
from tasks.runs.notice import Notice
from tasks.serving.deploy import deploy, look_ahead

capability = Capability("dpo-training", steps=dpo.STEPS, makes=KIND, started_by=feedback.EVENT)


@capability.flow
def dpo_training(parameters: DPOTrainingParameters) -> Report | Notice:
    """Turn the feedback of users into a better policy, and promote it if it is surely better."""
    given = dpo.prepare_inputs(parameters)
    with capability.begin(parameters, given.checksums) as work:
        if dpo.is_nothing(work):
            return preferences.nothing_to_learn(work)
        look_ahead(parameters.name, parameters.rollout)
        given = dpo.complete_inputs(work, given)
        champion = current_champion(work, given)
        dataset = dpo.build_dataset(work, given, champion)
        dpo.check_fit(work, given, champion, dataset)
        candidate = dpo.train_candidate(work, given, champion, dataset)
        given = dpo.train_judge(work, given, dataset)
        evaluation = dpo.evaluate_candidate(work, given, champion, candidate, dataset)
        verdict = judge_candidate(work, champion, candidate, evaluation)
        deployed = deploy(candidate, evaluation, parameters.rollout) if verdict.promote else None
        return publish_training(work, champion, candidate, dataset, evaluation, verdict, deployed)
