"""The stages of a rollout fit into its window, and are no part of what a night is."""

import pytest

from deployments import options
from infra.errors import InputError
from tasks.ppo.parameters import NightlyPPOParameters
from tasks.runs.run import NOT_IDENTITY
from tasks.serving.parameters import RolloutParameters


@pytest.mark.parametrize("model", [NightlyPPOParameters, RolloutParameters])
def test_stages_that_do_not_fit_are_refused_by_their_options(
    model: type[NightlyPPOParameters] | type[RolloutParameters],
) -> None:
    group = "rollout" if model is NightlyPPOParameters else "stages"
    given = {f"{group}__stage_minutes": 100.0}
    with pytest.raises(InputError) as error:
        options.parameters(model, given)
    assert "--stage-minutes" in error.value.message and "--rollout-hours" in error.value.message
    assert options.parameters(model, given | {f"{group}__rollout_hours": 5.0})


def test_a_killed_night_goes_on_with_other_stages() -> None:
    told = NightlyPPOParameters.model_validate({"rollout": {"stage_requests": 7}})
    usual = NightlyPPOParameters.model_validate({})
    assert told != usual
    assert told.model_dump(exclude=NOT_IDENTITY) == usual.model_dump(exclude=NOT_IDENTITY)
