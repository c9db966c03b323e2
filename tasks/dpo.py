"""The steps of DPO training, each safe to repeat: a resumed run finds what is done."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.errors import InputError
from infra.registry import ModelVersion
from infra.verdicts import Verdict
from jobs.contract import Artifact, JobResult, Resources
from jobs.dpo.config import DPOConfig, PairEvaluateConfig, PreflightConfig
from jobs.ppo.config import RewardModelConfig, SampleConfig
from jobs.ppo.data import read_prompts
from tasks import plan, preferences, publish
from tasks.dpo_parameters import DPOTrainingParameters
from tasks.inputs import (
    Inputs,
    function_spec,
    require_file,
    store,
    store_function,
    store_model,
    store_reward,
)
from tasks.pair_scores import pair_scores
from tasks.ppo import (
    DESIGN,
    SUCCESS_OF_DESIGN,
    design_version,
    read_evaluation,
    register_candidate,
    resources,
    with_design,
)
from tasks.report import Report
from tasks.run import Work
from tasks.winrate import win_rate

REWARD_OF_DESIGN = "jobs.design.reward:reward"
SIMULATED_EACH = 4
"""Simulated answers to one prompt, to be compared."""
CHECKING = Resources(cpus=1, memory_gb=4)


class Given(Inputs):
    """The stored inputs of a training; what is None comes from the table, the demo or the pairs."""

    dataset: Artifact | None = None
    pairs: Artifact | None = None
    scrub: Artifact | None = None
    judge: Artifact | None = None

    @property
    def data(self) -> dict[str, Artifact]:
        """What the dataset is made from."""
        named = {"dataset": self.dataset, "pairs": self.pairs, "scrub": self.scrub}
        return {name: artifact for name, artifact in named.items() if artifact is not None}


@task(name="prepare inputs", cache_policy=NO_CACHE)
def prepare_inputs(parameters: DPOTrainingParameters) -> Given:
    """Check what the user gave and store it; nothing is spent. The demo's own comes later."""
    if parameters.judge and (parameters.reward or parameters.reward_model):
        raise InputError("--judge: a reward is given too", "Judge with one of them.")
    if parameters.simulate and reward_of(parameters) is None:
        raise InputError(
            "--simulate: there is no reward to rank simulated answers with",
            "Give --reward or --reward-model.",
        )
    if parameters.simulate and parameters.prompts is None and parameters.model != DESIGN:
        raise InputError(
            "--simulate: there are no prompts to answer", "Give --prompts a file of JSON lines."
        )
    given = Given(
        base=None if parameters.model == DESIGN else store_model(parameters.model),
        prompts=_stored_prompts("--prompts", parameters.prompts),
        held_out=_stored_prompts("--held-out", parameters.held_out),
        reward=store_reward(parameters.reward, parameters.reward_model),
        judge=store_function("--judge", parameters.judge),
        success=store_function("--success", parameters.success),
        design=design_version() if parameters.model == DESIGN else None,
    )
    given = given.model_copy(update=dict(preferences.given_dataset(parameters)))
    if parameters.simulate and given.dataset:
        raise InputError(
            "--simulate: a dataset that was made before takes no more pairs",
            "Give --dataset a file of JSON lines, or leave --simulate out.",
        )
    return given


def is_nothing(work: Work, given: Given) -> bool:
    """Whether there is neither feedback, nor a dataset, nor a wish to simulate one."""
    asked = given.dataset or given.pairs or work.parameters.simulate
    return not asked and not preferences.choose_feedback(work, given.data)


@task(name="complete inputs", cache_policy=NO_CACHE)
def complete_inputs(work: Work, given: Given) -> Given:
    """Make the demo's base and prompts where they are wanted, once.

    Raises InputError where only simulated pairs would be there to judge with.
    """
    if work.parameters.model == DESIGN:
        return given.model_copy(update=dict(with_design(work, given)))
    judged = given.held_out or given.dataset or given.pairs
    if not judged and not preferences.choose_feedback(work, given.data):
        raise InputError(
            "--simulate: simulated pairs are never judged with, and there is no other",
            "Give prompts to judge with in --held-out, or wait for feedback.",
        )
    return given


@task(name="build preferences", cache_policy=NO_CACHE)
def build_dataset(work: Work, given: Given, champion: ModelVersion) -> Artifact:
    """The pairs of this run: users' and, where they are wanted, simulated ones."""
    parameters: DPOTrainingParameters = work.parameters
    more: dict[str, str] = {}
    if parameters.simulate:
        sampled = work.job(
            "simulate",
            "ppo.sample",
            SampleConfig(
                model=parameters.model,
                reward=function_spec(reward_of(parameters) or "", given.reward),
                count=parameters.simulate,
                samples_per_prompt=SIMULATED_EACH,
                seed=parameters.seed,
                max_new_tokens=parameters.answer_tokens,
                model_version=champion.version,
            ),
            given.uris("base", "prompts", "reward") | _champion(champion),
            parameters.transfer_hours,
            resources(parameters),
        )
        more["trajectories"] = sampled.artifacts["trajectories"].uri
    dataset = preferences.build_dataset(work, given.data, more)
    assert dataset is not None
    return dataset


@task(name="train judge", cache_policy=NO_CACHE)
def train_judge(work: Work, given: Given, dataset: Artifact) -> Given:
    """Without a reward or judge of the user's, a reward model learns from the training pairs."""
    parameters: DPOTrainingParameters = work.parameters
    if parameters.judge or reward_of(parameters):
        return given
    result = work.job(
        "judge",
        "dpo.reward_model",
        RewardModelConfig(model=parameters.model, seed=parameters.seed),
        given.uris("base") | {"dataset": dataset.uri},
        parameters.hours,
        judge_resources(parameters),
    )
    return given.model_copy(update={"reward": result.artifacts["reward_model"]})


@task(name="preflight", cache_policy=NO_CACHE)
def check_fit(work: Work, given: Given, champion: ModelVersion, dataset: Artifact) -> JobResult:
    """Try out tokens, shapes and judge on this machine, before another one is rented."""
    parameters: DPOTrainingParameters = work.parameters
    reward = reward_of(parameters)
    config = PreflightConfig(
        **_training_config(parameters).model_dump(),
        reward=function_spec(reward, given.reward) if reward else None,
        judge=function_spec(parameters.judge, given.judge) if parameters.judge else None,
        success=_success(parameters, given),
    )
    return preferences.local(work).job(
        "preflight",
        "dpo.preflight",
        config,
        given.uris("base", "reward", "judge", "success")
        | {"dataset": dataset.uri}
        | _held_out(given)
        | _champion(champion),
        parameters.transfer_hours,
        CHECKING,
    )


@task(name="train", cache_policy=NO_CACHE)
def train_candidate(
    work: Work, given: Given, champion: ModelVersion, dataset: Artifact
) -> ModelVersion:
    """A candidate from the pairs, registered as challenger."""
    parameters: DPOTrainingParameters = work.parameters
    result = work.job(
        "train",
        "dpo.train",
        _training_config(parameters),
        given.uris("base") | {"dataset": dataset.uri} | _champion(champion),
        parameters.hours,
        resources(parameters),
    )
    return register_candidate(work, champion, result, dataset)


@task(name="validate", cache_policy=NO_CACHE)
def evaluate_candidate(
    work: Work, given: Given, champion: ModelVersion, candidate: ModelVersion, dataset: Artifact
) -> JobResult:
    """Candidate and champion on the same held-out prompts and pairs."""
    parameters: DPOTrainingParameters = work.parameters
    judged_by: dict[str, Any] = {}
    if parameters.judge:
        judged_by["judge"] = function_spec(parameters.judge, given.judge)
    else:
        judged_by["reward"] = function_spec(reward_of(parameters) or "reward-model", given.reward)
    return work.job(
        "validate",
        "dpo.evaluate",
        PairEvaluateConfig(
            model=parameters.model,
            success=_success(parameters, given),
            temperature=parameters.judge_temperature,
            max_new_tokens=parameters.answer_tokens,
            seed=parameters.seed,
            beta=parameters.dpo.beta,
            max_tokens=parameters.dpo.max_tokens,
            quantised=bool(candidate.metrics["quantised"]),
            **judged_by,
        ),
        given.uris("base", "reward", "judge", "success")
        | {"dataset": dataset.uri, "candidate": candidate.uri}
        | _held_out(given)
        | _champion(champion),
        parameters.deploy_hours,
        resources(parameters),
    )


@task(name="report", cache_policy=NO_CACHE)
def publish_training(
    work: Work,
    champion: ModelVersion,
    candidate: ModelVersion,
    dataset: Artifact,
    evaluation: JobResult,
    verdict: Verdict,
    served: str | None,
) -> Report:
    """The report of a training: verdict, win rate, pairs, data card, cost."""
    rows, pairs = read_evaluation(evaluation), read_evaluation(evaluation, "pairs")
    card, card_text = preferences.read_card(dataset)
    metrics, trained = evaluation.metrics, candidate.metrics
    collected = {
        "pairs trained on": int(trained["pairs"]),
        "pairs whose prompt leaves no room for an answer": int(trained["too_long"]),
        "simulated pairs among them, at most": card["simulated"],
        "held-out pairs": len(pairs),
        "prompts or groups that they are of": len({pair["group"] for pair in pairs}),
        "held-out prompts judged": len(rows),
    }
    report = publish.draft(work, champion, candidate, rows, verdict, served, collected)
    if pairs:
        report.scores += pair_scores(pairs, work.parameters.dpo.beta)
    if "candidate_rouge_l" in metrics:
        with_reference = [row for row in rows if "rouge_l" in row["candidate"]]
        report.scores.append(publish.score(with_reference, "rouge_l"))
    wins = win_rate(rows)
    told = [
        f"Against the champion the candidate's answers win {wins.rate:.1%} of the held-out prompts "
        f"(95 % interval {wins.low:.1%} to {wins.high:.1%}), {wins.length_controlled:.1%} at equal "
        f"length. KL to the base {metrics['kl']:.3f} nats a completion."
    ]
    if pairs:
        told.append(
            f"Held-out pairs: the implicit reward ranks {metrics['candidate_reward_accuracy']:.1%} "
            f"right, by a margin of {metrics['candidate_reward_margin']:.3f}; always taking the "
            f"longer answer would {metrics['longer_accuracy']:.1%}, chance 50 %."
        )
    if "candidate_bleu" in metrics:
        told.append(
            f"BLEU against the references: champion {metrics['champion_bleu']:.1f}, candidate "
            f"{metrics['candidate_bleu']:.1f}."
        )
    report.sections = {
        "Against the champion": "\n\n".join(told),
        "How it was trained": _how(trained),
        "The data": card_text.replace("# Data card\n", "").replace("\n## ", "\n### ").strip(),
    }
    return publish.publish(
        work,
        report,
        ("accuracy", "share of a batch's pairs ranked right"),
        ("margin", "margin of the implicit reward"),
    )


def reward_of(parameters: DPOTrainingParameters) -> str | None:
    """What judges answers: the user's reward, the demo's for its model, or None."""
    if parameters.judge:
        return None
    given = parameters.reward_model or parameters.reward
    return given or (REWARD_OF_DESIGN if parameters.model == DESIGN else None)


def plan_training(parameters: DPOTrainingParameters) -> list[plan.Step]:
    """The jobs of one training, each with its window and its price at most."""
    steps: list[plan.Step] = []
    hours, target = parameters.transfer_hours, parameters.target
    if parameters.model == DESIGN:
        steps.append(plan.step("base (once)", "train", CHECKING, hours, target))
    if parameters.simulate:
        steps.append(_step("simulate", hours, parameters))
    steps += preferences.plan_dataset(parameters)
    if not parameters.judge and reward_of(parameters) is None:
        machine = judge_resources(parameters)
        steps.append(plan.step("judge", "train", machine, parameters.hours, target))
    steps.append(plan.step("preflight", "train", CHECKING, hours, "local"))
    steps.append(_step("train", parameters.hours, parameters))
    steps.append(_step("validate", parameters.deploy_hours, parameters))
    return steps


def judge_resources(parameters: DPOTrainingParameters) -> Resources:
    """What training a judge asks for: one GPU at most, since TRL's RewardTrainer wants a process
    for each and runs in one."""
    asked = resources(parameters)
    return asked.model_copy(update={"accelerators": dict.fromkeys(asked.accelerators, 1)})


def _step(name: str, hours: float, parameters: DPOTrainingParameters) -> plan.Step:
    return plan.step(name, "train", resources(parameters), hours, parameters.target)


def _success(parameters: DPOTrainingParameters, given: Given) -> str | None:
    success = parameters.success
    if success is None and reward_of(parameters) == REWARD_OF_DESIGN:
        success = SUCCESS_OF_DESIGN
    return function_spec(success, given.success) if success else None


def _training_config(parameters: DPOTrainingParameters) -> DPOConfig:
    return DPOConfig(
        model=parameters.model,
        seed=parameters.seed,
        max_new_tokens=parameters.answer_tokens,
        **parameters.dpo.model_dump(),
    )


def _stored_prompts(option: str, path: str | None) -> Artifact | None:
    if path is None:
        return None
    read_prompts(require_file(option, path), option)
    return store(Path(path), "prompts")


def _held_out(given: Given) -> dict[str, str]:
    return {"prompts": given.held_out.uri} if given.held_out else {}


def _champion(champion: ModelVersion) -> dict[str, str]:
    """The champion's adapter; the base alone is no input."""
    return {} if champion.uri == champion.base else {"champion": champion.uri}


def _how(trained: dict[str, float]) -> str:
    where = "in 4 bits, " if trained["quantised"] else ""
    checkpointed = "with" if trained["gradient_checkpointing"] else "without"
    return (
        f"{trained['steps']:.0f} steps of {trained['micro_batch']:.0f} × "
        f"{trained['accumulation']:.0f} × {trained['processes']:.0f} pairs (at a time, "
        f"accumulated, processes), base {where}{'bfloat16' if trained['bfloat16'] else 'float32'}, "
        f"{checkpointed} gradient checkpointing, final loss {trained['loss']:.4f}. The log of the "
        "training says why."
    )
