"""Surrogate retraining: simulate, learn from what was measured, calibrate, judge, under a budget.

    nightshift run surrogate-retraining
    nightshift run surrogate-retraining --name mine --observations measured/ --weather town.epw

The first run makes version 1; later ones go on from the champion. A killed run is finished by the
next one with the same parameters.
"""

from tasks.champions.candidate import deploy_champion
from tasks.champions.report import Report
from tasks.runs.capability import Capability
from tasks.runs.notice import Notice
from tasks.surrogate import KIND, inputs, observations
from tasks.surrogate import steps as surrogate
from tasks.surrogate.gate import judge_candidate
from tasks.surrogate.parameters import SurrogateParameters
from tasks.surrogate.report import publish_retraining

capability = Capability(
    "surrogate-retraining", steps=surrogate.STEPS, makes=KIND, started_by=observations.EVENT
)


@capability.flow
def surrogate_retraining(parameters: SurrogateParameters) -> Report | Notice:
    """Retrain a building-energy surrogate, and promote it if it is surely better."""
    given = inputs.prepare_inputs(parameters)
    with capability.begin(parameters, given.checksums) as work:
        observed = inputs.collect_observations(work, given)
        champion = surrogate.current_champion(work, parameters.town_of)
        need = surrogate.decide(work, champion, observed)
        if not need.retrain:
            return surrogate.nothing_to_learn(work, need)
        simulated = surrogate.simulate_designs(work, given)
        candidate, held_out = surrogate.train_candidate(work, champion, simulated, observed)
        evaluation = surrogate.evaluate_candidate(work, champion, candidate, held_out, given.towns)
        verdict = judge_candidate(work, champion, candidate, evaluation)
        served = deploy_champion(candidate) if verdict.promote else None
        return publish_retraining(work, champion, candidate, evaluation, verdict, served, need)
