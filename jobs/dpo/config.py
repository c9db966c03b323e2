"""What the jobs of DPO can be told. Imported by the control plane too: no torch here."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from infra.contract import JobConfig, Place
from jobs.dpo.shapes import MAPPED
from jobs.policy.config import EvaluateConfig, LoraHyperparameters, ModelConfig, SuccessConfig

Loss = Literal[
    "sigmoid",
    "robust",
    "ipo",
    "hinge",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]
"""The losses of TRL's DPOTrainer."""


MAPPING = re.compile(r"(\w+)=(.*?)(?=[\s,]+\w+=|$)", re.DOTALL)


def _mapping(value: Any) -> Any:
    """{our field: the file's} of `chosen=better rejected=worse`."""
    if isinstance(value, str):
        found = {ours: theirs.strip() for ours, theirs in MAPPING.findall(value)}
        if not found or MAPPING.sub("", value).strip(" ,\n\t"):
            raise ValueError(f"{value!r} is not like chosen=better rejected=worse")
        value = found
    unknown = sorted(set(value or ()) - set(MAPPED))
    if unknown:
        raise ValueError(f"no shape has a field {unknown[0]!r}; there are {', '.join(MAPPED)}")
    return value


class PairChoice(JobConfig):
    """Which pairs become the dataset."""

    map: Annotated[dict[str, str] | None, BeforeValidator(_mapping)] = Field(
        default=None,
        title="Map",
        description="What the fields of the dataset are called there, our names first: "
        "prompt=question chosen=better rejected=worse.",
    )

    scrub: Place = Field(
        default="jobs.dpo.scrub:scrub",
        title="Scrub",
        description="module:function or file.py:function, text → text, that takes personal data "
        "out of prompts and answers; 'none' leaves them as they are.",
    )
    min_confidence: float = Field(
        default=0.55,
        ge=0.5,
        lt=1,
        title="Least confidence",
        description="Pairs below it are left out, 0.5 to 1.",
    )
    rating_margin: float = Field(
        default=1.0,
        gt=0,
        title="Rating margin",
        description="Stars that the chosen answer has at least more than the rejected one.",
    )
    simulated_margin: float = Field(
        default=0.2,
        gt=0,
        title="Simulated margin",
        description="Reward points that the chosen one of two simulated answers has at least more.",
    )
    pairs_per_prompt: int = Field(
        default=8,
        ge=1,
        title="Pairs of a prompt",
        description="Made at most from the thumbs, the ratings and the simulation of one prompt, "
        "each; the clearest first.",
    )
    near_duplicate: float = Field(
        default=0.9,
        gt=0.5,
        le=1,
        title="Near duplicate",
        description="Jaccard similarity of word triples from which prompt and answers count as "
        "the same; 1 removes exact duplicates only.",
    )
    held_out_share: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        title="Held-out share",
        description="Share of the prompts (or groups) that is never trained on.",
    )


class BuildConfig(PairChoice):
    """Preferences from feedback, files and simulation."""

    hub: str | None = Field(
        default=None, title="Hub id", description="ORG/NAME or ORG/NAME:SPLIT of a dataset."
    )

    workers: int | None = Field(
        default=None,
        ge=1,
        title="Workers",
        description="Processes that look for near duplicates; unset: one a core.",
    )


class DPOHyperparameters(LoraHyperparameters):
    """How a policy learns from preferences."""

    loss: Loss = Field(default="sigmoid", title="Loss", description="One of TRL's DPO losses.")
    sft_weight: float | None = Field(
        default=None,
        ge=0,
        le=1000,
        title="Weight of the likelihood",
        description="Adds the likelihood of the chosen answers to the loss, against their growing "
        "unlikely together with the rejected ones; 0: the loss alone, RPO takes 1 (Pang et al. "
        "2024). Unset: 10 times the share of corrections among the pairs.",
    )
    beta: float = Field(
        default=0.1,
        gt=0,
        le=1000,
        title="Beta",
        description="How strongly the policy is held to its reference; ipo: its τ.",
    )
    label_smoothing: float | None = Field(
        default=None,
        ge=0,
        lt=0.5,
        title="Label smoothing",
        description="Probability that a pair is the wrong way round, for the losses robust, "
        "exo_pair and aot; unset: one less the mean confidence of the pairs.",
    )
    epochs: float = Field(
        default=1.0, gt=0, le=1000, title="Epochs", description="Passes over the pairs."
    )
    max_steps: int | None = Field(
        default=None, ge=1, title="Largest number of steps", description="Ends training earlier."
    )
    effective_batch: int = Field(
        default=16,
        ge=1,
        le=1_000_000,
        title="Effective batch",
        description="Pairs in one optimiser step.",
    )
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        title="Micro-batch",
        description="Pairs in one forward pass, a divisor of the effective batch; unset: as many "
        "as fit. It is halved where memory runs out.",
    )
    warmup: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        title="Warm-up",
        description="Share of the steps in which the learning rate rises; then it falls to 0.",
    )
    max_tokens: int = Field(
        default=1024,
        ge=8,
        title="Length",
        description="Tokens of prompt and answer, the model's context at most; longer answers are "
        "cut, pairs whose prompt leaves no room are left out.",
    )
    precompute_reference: bool = Field(
        default=False,
        title="Precompute reference",
        description="Compute the reference's log-probabilities once before training, instead of "
        "with the adapter switched off in each step; pays from two epochs on.",
    )
    gradient_checkpointing: Literal["auto", "on", "off"] = Field(
        default="auto",
        title="Gradient checkpointing",
        description="auto: where a micro-batch of half the effective batch does not fit without.",
    )
    quantise: Literal["auto", "on", "off"] = Field(
        default="auto",
        title="Quantised base",
        description="Base in 4 bits (QLoRA). auto: on a GPU where the base does not fit otherwise.",
    )
    checkpoint_interval: int = Field(
        default=50, ge=1, title="Checkpoint interval", description="Steps between two checkpoints."
    )
    validation_pairs: int = Field(
        default=128,
        ge=0,
        le=100_000,
        title="Validation pairs",
        description="Pairs, of a tenth of the prompts or groups at most, that are set aside and "
        "not trained on: their loss chooses the best checkpoint. 0: the last one is taken.",
    )
    patience: int = Field(
        default=8,
        ge=1,
        title="Patience",
        description="Training ends after so many looks at the validation pairs, one a checkpoint "
        "and eight at least, without a better policy.",
    )

    @model_validator(mode="after")
    def _whole_batches(self) -> "DPOHyperparameters":
        if self.micro_batch and self.effective_batch % self.micro_batch:
            raise ValueError("effective_batch must be a multiple of micro_batch")
        if self.loss == "exo_pair" and self.label_smoothing == 0:
            raise ValueError("the loss exo_pair needs a label_smoothing above 0")
        return self


class DPOConfig(ModelConfig, DPOHyperparameters):
    """One training on a dataset of preferences."""

    processes: int | None = Field(
        default=None,
        ge=1,
        title="Processes",
        description="Unset: one a GPU of this machine. On a CPU with more than one: gloo.",
    )
    max_new_tokens: int = Field(
        default=128, ge=1, le=32768, title="Completion length", description="Of held-out answers."
    )


class PreflightConfig(DPOConfig, SuccessConfig):
    """What a training and its judging will be told, tried out."""

    reward: str | None = Field(
        default=None, title="Reward", description="As in jobs.ppo.config; unset with a judge."
    )
    judge: str | None = Field(default=None, title="Judge", description="As in judging.")


class PairEvaluateConfig(EvaluateConfig):
    """Candidate against champion on held-out prompts and held-out pairs."""

    reward: str = Field(
        default="jobs.dpo.judge:undecided",
        title="Reward",
        description="As in jobs.ppo.config; unset with a judge.",
    )
    judge: str | None = Field(
        default=None,
        title="Judge",
        description="module:function or file.py:function, f(prompts, first, second, **columns) → "
        "probabilities that the first answer is the better one; asked in both orders.",
    )
    beta: float = Field(
        default=0.1, gt=0, le=1000, title="Beta", description="Scale of implicit rewards."
    )
    max_tokens: int = Field(
        default=1024, ge=8, title="Length", description="As in training: longer answers are cut."
    )
    quantised: bool = Field(
        default=False,
        title="Quantised base",
        description="In 4 bits, as the candidate was trained.",
    )
    pair_limit: int = Field(
        default=2000, ge=1, title="Pairs", description="Held-out pairs that are scored at most."
    )
