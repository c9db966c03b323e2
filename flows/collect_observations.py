"""Check measured building-years and store them for the next retraining of a surrogate.

    nightshift run collect-observations --observations measured/ --name mine

Without --observations it takes the years of hourly readings that sensors have completed over MQTT,
and refuses each bad one by itself. Each time that the stored ones pass a multiple of
NIGHTSHIFT_OBSERVATION_THRESHOLD the event `observations.threshold-reached` is emitted, which can
start a retraining.
"""

from prefect import flow

from tasks import surrogate_data
from tasks.crashed import attend
from tasks.hooks import release_compute
from tasks.plan import Step
from tasks.report import Notice
from tasks.run import begin
from tasks.surrogate_parameters import ObservationParameters


@flow(
    name="collect-observations",
    flow_run_name="collect-observations {parameters.name}",
    on_running=[attend],
    on_cancellation=[release_compute],
    on_crashed=[release_compute],
)
def collect_observations(parameters: ObservationParameters) -> Notice:
    """Check measured building-years and store them for the next retraining."""
    given = surrogate_data.prepare_observations(parameters)
    with begin("collect-observations", parameters, given.checksums) as work:
        return surrogate_data.store_observations(work, given)


def plan(parameters: ObservationParameters) -> list[Step]:
    """What would be launched, where and at which price."""
    return surrogate_data.plan_collecting(parameters)
