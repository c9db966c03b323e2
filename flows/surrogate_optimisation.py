"""Surrogate optimisation: designs that need little energy for little money, and surely do.

    nightshift run surrogate-optimisation
    nightshift run surrogate-optimisation --name mine --weather town.epw --risk-aversion 2

The champion is asked by a population search, once as it predicts and once with its doubts added;
points of both fronts are simulated to see which promises were kept.
"""

from tasks.runs.capability import Capability
from tasks.runs.notice import Notice
from tasks.surrogate import optimisation
from tasks.surrogate.parameters import OptimisationParameters
from tasks.surrogate.steps import current_champion

capability = Capability("surrogate-optimisation", steps=(optimisation.SEARCH,))


@capability.flow
def surrogate_optimisation(parameters: OptimisationParameters) -> Notice:
    """Search designs with a surrogate, once trusting it and once fearing its doubts."""
    given = optimisation.prepare_weather(parameters)
    with capability.begin(parameters, given.checksums) as work:
        champion = current_champion(work)
        fronts = optimisation.search_designs(work, given, champion)
        return optimisation.publish_fronts(work, fronts)
