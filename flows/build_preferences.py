"""Make a dataset of preferences from the feedback that users left, or from a file.

    nightshift run build-preferences --name mine --feedback-since 7d
    nightshift run build-preferences --dataset pairs.jsonl.gz

It ends with the data card and the URI that `nightshift run dpo-training --dataset` takes. A killed
run is finished by the next one with the same parameters.
"""

from tasks.dpo import preferences
from tasks.dpo.parameters import PreferenceParameters
from tasks.runs.capability import Capability
from tasks.runs.notice import Notice

capability = Capability[PreferenceParameters]("build-preferences", steps=(preferences.BUILD,))


@capability.flow
def build_preferences(parameters: PreferenceParameters) -> Notice:
    """Turn feedback into a dataset of preferences with a data card."""
    given = preferences.given_dataset(parameters)
    checksums = {name: artifact.sha256 for name, artifact in given.items()}
    with capability.begin(parameters, checksums) as work:
        dataset = preferences.build_dataset(work, given)
        if dataset is None:
            return preferences.nothing_to_learn(work)
        return preferences.publish_dataset(work, dataset)
