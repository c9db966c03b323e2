"""Surrogate retraining: simulate, learn from what was measured, calibrate, judge, under a budget.

    nightshift run surrogate-retraining
    nightshift run surrogate-retraining --name mine --observations measured/ --weather town.epw

The first run makes version 1; later ones go on from the champion. A killed run is finished by the
next one with the same parameters.
"""

from prefect import flow

from tasks import ppo, surrogate, surrogate_data
from tasks.crashed import attend
from tasks.hooks import release_compute
from tasks.plan import Step
from tasks.report import Notice, Report
from tasks.run import begin
from tasks.surrogate_gate import judge_candidate
from tasks.surrogate_parameters import SurrogateParameters
from tasks.surrogate_report import publish_retraining


@flow(
    name="surrogate-retraining",
    flow_run_name="surrogate-retraining {parameters.name}",
    on_running=[attend],
    on_cancellation=[release_compute],
    on_crashed=[release_compute],
)
def surrogate_retraining(parameters: SurrogateParameters) -> Report | Notice:
    """Retrain a building-energy surrogate, and promote it if it is surely better."""
    given = surrogate_data.prepare_inputs(parameters)
    with begin("surrogate-retraining", parameters, given.checksums) as work:
        observed = surrogate_data.collect_observations(work, given)
        champion = surrogate.current_champion(work)
        need = surrogate.decide(work, champion, observed)
        if not need.retrain:
            return surrogate.nothing_to_learn(work, need)
        simulated = surrogate.simulate_designs(work, given)
        candidate, held_out = surrogate.train_candidate(work, champion, simulated, observed)
        evaluation = surrogate.evaluate_candidate(work, champion, candidate, held_out)
        verdict = judge_candidate(work, champion, candidate, evaluation)
        served = ppo.deploy_champion(candidate, "surrogate") if verdict.promote else None
        return publish_retraining(work, champion, candidate, evaluation, verdict, served, need)


def plan(parameters: SurrogateParameters) -> list[Step]:
    """What a retraining would launch, where and at which price."""
    return surrogate.plan_retraining(parameters)
