"""Check measured building-years and store them for the next retraining of a surrogate.

    nightshift run collect-observations --observations measured/ --name mine

Without --observations it takes the years of hourly readings that sensors have completed over MQTT,
and refuses each bad one by itself. Each time that the stored ones pass a multiple of
NIGHTSHIFT_OBSERVATION_THRESHOLD the event `observations.threshold-reached` is emitted, which can
start a retraining.
"""

from tasks.runs.capability import Capability
from tasks.runs.notice import Notice
from tasks.surrogate import inputs, readings
from tasks.surrogate.parameters import ObservationParameters

capability = Capability[ObservationParameters](
    "collect-observations", steps=(inputs.COLLECT,), started_by=readings.EVENT
)


@capability.flow
def collect_observations(parameters: ObservationParameters) -> Notice:
    """Check measured building-years and store them for the next retraining."""
    given = inputs.prepare_observations(parameters)
    with capability.begin(parameters, given.checksums) as work:
        return inputs.store_observations(work, given)
