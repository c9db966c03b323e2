"""What a quantisation is given: prompts, rewards, and the champion. Nothing is spent here."""

from pathlib import Path
from tempfile import TemporaryDirectory

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.errors import InputError
from infra.serving import version
from jobs.policy.data import read_prompts
from tasks.champions.gate import FEWEST
from tasks.policy import design
from tasks.policy.inputs import Inputs, store_prompts, store_reward
from tasks.quantization.parameters import QuantizationParameters
from tasks.runs.given import require_file


@task(name="prepare inputs", cache_policy=NO_CACHE)
def prepare_inputs(parameters: QuantizationParameters) -> Inputs:
    """Check and store prompts and rewards. Raises InputError: no champion, or a wrong file."""
    version.champion(parameters.name)
    default = QuantizationParameters.model_fields["reward"].default
    reward = None if parameters.reward == default else parameters.reward
    inputs = Inputs(reward=store_reward(reward, parameters.reward_model))
    if parameters.prompts == design.DEMO:
        return inputs.model_copy(update={"design": design.design_version()})
    if parameters.held_out is not None:
        require_enough(require_file("--held-out", parameters.held_out))
    with TemporaryDirectory() as scratch:
        prompts, held_out = store_prompts(parameters.prompts, parameters.held_out, Path(scratch))
    return inputs.model_copy(update={"prompts": prompts, "held_out": held_out})


def require_enough(held_out: Path) -> None:
    """Raises InputError for fewer prompts than a quality is told from."""
    count = len(read_prompts(held_out, "--held-out"))
    if count < FEWEST:
        raise InputError(
            f"--held-out: {held_out} has {count} prompts, too few to tell a quality from",
            f"Give at least {FEWEST}.",
        )
