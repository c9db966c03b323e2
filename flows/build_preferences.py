"""Make a dataset of preferences from the feedback that users left, or from a file.

    nightshift run build-preferences --name mine --feedback-since 7d
    nightshift run build-preferences --dataset pairs.jsonl.gz

It ends with the data card and the URI that `nightshift run dpo-training --dataset` takes. A killed
run is finished by the next one with the same parameters.
"""

from prefect import flow

from tasks import preferences
from tasks.crashed import attend
from tasks.dpo_parameters import PreferenceParameters
from tasks.hooks import release_compute
from tasks.plan import Step
from tasks.report import Notice
from tasks.run import begin


@flow(
    name="build-preferences",
    flow_run_name="build-preferences {parameters.name}",
    on_running=[attend],
    on_cancellation=[release_compute],
    on_crashed=[release_compute],
)
def build_preferences(parameters: PreferenceParameters) -> Notice:
    """Turn feedback into a dataset of preferences with a data card."""
    given = preferences.given_dataset(parameters)
    checksums = {name: artifact.sha256 for name, artifact in given.items()}
    with begin("build-preferences", parameters, checksums) as work:
        dataset = preferences.build_dataset(work, given)
        if dataset is None:
            return preferences.nothing_to_learn(work)
        return preferences.publish_dataset(work, dataset)


def plan(parameters: PreferenceParameters) -> list[Step]:
    """What would be launched, where and at which price."""
    return preferences.plan_dataset(parameters)
