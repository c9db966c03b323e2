"""Surrogate optimisation: designs that need little energy for little money, and surely do.

    nightshift run surrogate-optimisation
    nightshift run surrogate-optimisation --name mine --weather town.epw --risk-aversion 2

The champion is asked by a population search, once as it predicts and once with its doubts added;
points of both fronts are simulated to see which promises were kept.
"""

from prefect import flow

from tasks import surrogate_optimisation as optimisation
from tasks.crashed import attend
from tasks.hooks import release_compute
from tasks.plan import Step
from tasks.report import Notice
from tasks.run import begin
from tasks.surrogate import current_champion
from tasks.surrogate_parameters import OptimisationParameters


@flow(
    name="surrogate-optimisation",
    flow_run_name="surrogate-optimisation {parameters.name}",
    on_running=[attend],
    on_cancellation=[release_compute],
    on_crashed=[release_compute],
)
def surrogate_optimisation(parameters: OptimisationParameters) -> Notice:
    """Search designs with a surrogate, once trusting it and once fearing its doubts."""
    given = optimisation.prepare_weather(parameters)
    with begin("surrogate-optimisation", parameters, given.checksums) as work:
        champion = current_champion(work)
        fronts = optimisation.search_designs(work, given, champion)
        return optimisation.publish_fronts(work, fronts)


def plan(parameters: OptimisationParameters) -> list[Step]:
    """What a search would launch, where and at which price."""
    return optimisation.plan_optimisation(parameters)
