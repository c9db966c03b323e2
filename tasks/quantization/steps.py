"""The steps of a quantisation, each safe to repeat: a resumed run finds what is done."""

from dataclasses import replace

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra import objects
from infra.contract import Artifact, JobResult, Resources, Stored
from infra.models import registry
from infra.models.registry import ModelVersion
from infra.records import runs
from infra.serving import version
from jobs.quantization.config import QuantiseConfig, ScoreConfig
from jobs.serving.config import LoadConfig
from tasks.champions.candidate import champion_input, read_lines
from tasks.policy import design
from tasks.policy.inputs import Inputs, function_spec
from tasks.quantization.figures import Figures, best, figures
from tasks.quantization.parameters import QuantizationParameters
from tasks.runs.plan import Step
from tasks.runs.run import Work

QUANTISE = Step[QuantizationParameters](
    "quantise",
    "quantization.make",
    "quantize",
    lambda p: p.hours,
    Resources(cpus=1, memory_gb=8),
)
MEASURE = Step[QuantizationParameters](
    "measure",
    "serving.measure",
    "serve",
    lambda p: p.measure_hours,
    Resources(cpus=1, memory_gb=8),
    here=True,
    remark="where it is to be served",
)
SCORE = Step[QuantizationParameters](
    "score",
    "quantization.score",
    "train",
    lambda p: p.transfer_hours,
    Resources(cpus=1, memory_gb=4),
)
STEPS = (
    replace(design.BASE, planned=lambda p: p.prompts == design.DEMO),
    QUANTISE,
    MEASURE,
    SCORE,
)


@task(name="complete inputs", cache_policy=NO_CACHE)
def complete_inputs(work: Work[QuantizationParameters], inputs: Inputs) -> Inputs:
    """Make the demo's prompts where they are wanted, once."""
    return design.with_design(work, inputs) if inputs.design else inputs


@task(name="find the champion", cache_policy=NO_CACHE)
def find_champion(work: Work[QuantizationParameters]) -> ModelVersion:
    """The version that is quantised, fixed at the first start."""
    champion = version.champion(work.parameters.name)
    pinned = runs.pin(work.pool, work.run, "champion", champion.model_dump(exclude={"aliases"}))
    return ModelVersion.stored(pinned)


@task(name="quantise", cache_policy=NO_CACHE)
def quantise(
    work: Work[QuantizationParameters], inputs: Inputs, champion: ModelVersion
) -> JobResult:
    """Every variant that can be made."""
    parameters = work.parameters
    config = QuantiseConfig(model=_hub_id(champion), variants=parameters.variants)
    given = _champion_inputs(champion) | inputs.some("prompts", "held_out")
    return work.job(QUANTISE, config, given)


@task(name="measure", cache_policy=NO_CACHE)
def measure(
    work: Work[QuantizationParameters],
    inputs: Inputs,
    champion: ModelVersion,
    made: JobResult,
) -> list[Figures]:
    """The champion and what was made of it, under the same load."""
    parameters = work.parameters
    variants = [name for name in parameters.variants if name in made.artifacts]
    config = LoadConfig(
        model=_hub_id(champion),
        variants=list(variants),
        clients=parameters.clients,
        requests=parameters.requests,
        max_new_tokens=parameters.max_new_tokens,
    )
    given = {name: made.artifacts[name] for name in (*variants, "asked")}
    measured = work.job(MEASURE, config, _champion_inputs(champion) | given)
    reward = function_spec(parameters.reward_model or parameters.reward, inputs.reward)
    scored = work.job(
        SCORE,
        ScoreConfig(reward=reward, max_new_tokens=parameters.max_new_tokens),
        {"answers": measured.artifacts["answers"]} | inputs.some("held_out", "reward"),
    )
    return figures(
        read_lines(made.artifacts["made"]),
        read_lines(measured.artifacts["measured"]),
        {row["variant"]: row["rewards"] for row in read_lines(scored.artifacts["rewards"])},
        parameters.objective,
    )


@task(name="register", cache_policy=NO_CACHE)
def register_best(
    work: Work[QuantizationParameters],
    champion: ModelVersion,
    made: JobResult,
    found: list[Figures],
) -> ModelVersion | None:
    """The best variant that holds the objective, as a version that nobody serves yet."""
    chosen = best(found)
    if chosen is None:
        return None
    artifact: Artifact = made.artifacts[chosen.variant]
    return registry.register(
        work.run.id,
        ModelVersion(
            model=champion.model,
            kind=version.QUANTISED,
            version="",
            uri=artifact.uri,
            sha256=artifact.sha256,
            base=artifact.uri,
            metrics=chosen.metrics(),
            parent=champion.version,
        ),
    )


def _champion_inputs(champion: ModelVersion) -> dict[str, Stored]:
    """The champion's base and its adapter, where they are no hub's."""
    base: dict[str, Stored] = {}
    if "://" in champion.base:
        base = {"base": objects.describe(champion.base)}
    return base | champion_input(champion)


def _hub_id(champion: ModelVersion) -> str:
    return "" if "://" in champion.base else champion.base
