"""What a quantisation is given: prompts, rewards, and the champion. Nothing is spent here."""

from pathlib import Path
from tempfile import TemporaryDirectory

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.errors import InputError
from infra.models import registry
from tasks.policy import KIND, design
from tasks.policy.inputs import Inputs, store_prompts, store_reward
from tasks.quantization.parameters import QuantizationParameters


@task(name="prepare inputs", cache_policy=NO_CACHE)
def prepare_inputs(parameters: QuantizationParameters) -> Inputs:
    """Check and store prompts and rewards. Raises InputError: no champion, or a wrong file."""
    champion = registry.by_alias(parameters.name, "champion")
    if champion is None:
        raise InputError(
            f"--name: {parameters.name!r} has no champion",
            f"Make one with `nightshift run nightly-ppo --name {parameters.name}`.",
        )
    champion.require_kind(KIND, "`nightshift models list` shows what there is.")
    default = QuantizationParameters.model_fields["reward"].default
    reward = None if parameters.reward == default else parameters.reward
    inputs = Inputs(reward=store_reward(reward, parameters.reward_model))
    if parameters.prompts == design.DEMO:
        return inputs.model_copy(update={"design": design.design_version()})
    with TemporaryDirectory() as scratch:
        prompts, held_out = store_prompts(parameters.prompts, parameters.held_out, Path(scratch))
    return inputs.model_copy(update={"prompts": prompts, "held_out": held_out})
