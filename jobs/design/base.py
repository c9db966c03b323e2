"""The demo's base model: a small Llama that answers design requests, sloppily.

    python -m jobs.design.base JOB_FOLDER

Its training answers are a sloppy designer's: with a certain probability a catalogue default
stands where the request asked for something else. So the base is right about as often as it is
wrong, in a way that a reward can mend: it is trained until it has learnt to copy what is asked, and
its habits are all that is left to mend. Artefacts: `model` (a Hugging Face folder), `prompts` and
`held_out` (requests with their targets; the phrasings of `held_out` are in no training text).
"""

import json
import math
from collections.abc import Sequence
from random import Random

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from jobs.design.config import BaseModelConfig
from jobs.design.muon import Muon
from jobs.design.parts import write
from jobs.design.requests import request, rows, write_jsonl
from jobs.runtime import Interrupted, Job, Outcome, main

HABITS = {
    "gear": ("bore", 5, 0.65),
    "bracket": ("thickness", 3, 0.65),
    "screw": ("head", "hex", 0.3),
}
"""Part → the field that the sloppy designer fills by habit, with what, and how often."""
VOCABULARY = 768
CONTEXT = 128
MUON_TIMES_ADAMW = 10
"""The rate of Muon over that of AdamW: its steps have a norm of their own."""


def program(job: Job[BaseModelConfig]) -> Outcome:
    torch.set_num_threads(1)
    config = job.config
    tokenizer = make_tokenizer(config.seed)
    torch.manual_seed(config.seed)
    model = make_model(config, tokenizer)
    optimisers = make_optimisers(model, config.learning_rate)
    peaks = [group["lr"] for each in optimisers for group in each.param_groups]
    step, loss = 0, math.nan
    found = job.latest_checkpoint()
    if found:
        step, folder = found
        state = torch.load(folder / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        for each, saved in zip(optimisers, state["optimisers"], strict=True):
            each.load_state_dict(saved)
        loss = state["loss"]

    def checkpoint() -> None:
        state = {
            "model": model.state_dict(),
            "optimisers": [each.state_dict() for each in optimisers],
            "loss": loss,
        }
        job.save_checkpoint(step, lambda folder: torch.save(state, folder / "state.pt"))

    groups = [group for each in optimisers for group in each.param_groups]
    while step < config.steps:
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * schedule(step, config.steps)
        random = Random(f"{config.seed} {step}")
        loss = train_step(model, tokenizer, optimisers, random, config.batch)
        step += 1
        if step % 20 == 0:
            job.progress(step, config.steps, "base model", loss=loss)
        if step % config.checkpoint_interval == 0:
            checkpoint()
        if job.stopping:
            checkpoint()
            raise Interrupted
    model_folder = job.scratch / "model"
    model.save_pretrained(model_folder)
    tokenizer.save_pretrained(model_folder)
    write_jsonl(job.scratch / "prompts.jsonl", "train", config.prompts, config.seed)
    write_jsonl(job.scratch / "held_out.jsonl", "held_out", config.held_out, config.seed)
    return Outcome(
        {"loss": loss, "parameters": float(model.num_parameters())},
        {
            "model": model_folder,
            "prompts": job.scratch / "prompts.jsonl",
            "held_out": job.scratch / "held_out.jsonl",
        },
    )


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of the training requests, every digit a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = [text for row in rows("train", 3000, seed) for text in (row["prompt"], row["target"])]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<pad>", "<end>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        model_max_length=CONTEXT,
        padding_side="left",
    )


def make_model(config: BaseModelConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            intermediate_size=config.hidden * 3,
            num_hidden_layers=config.layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def make_optimisers(model: LlamaForCausalLM, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest (Jordan et al. 2024).

    With both the base is as good after 300 steps as with AdamW alone after more than 700.
    """
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    chosen = set(matrices)
    rest = [p for p in model.parameters() if p not in chosen]
    return [
        Muon(matrices, MUON_TIMES_ADAMW * learning_rate, weight_decay=0.01),
        torch.optim.AdamW(rest, learning_rate, weight_decay=0.01),
    ]


def train_step(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    optimisers: Sequence[torch.optim.Optimizer],
    random: Random,
    batch: int,
) -> float:
    """One optimiser step on fresh requests; the mean loss of an answer's token, in nats."""
    prompts, answers = [], []
    for _ in range(batch):
        row = request("train", random)
        prompts.append(row["prompt"])
        answers.append(sloppy(row["target"], random))
    prompt_ids = tokenizer(prompts)["input_ids"]
    answer_ids = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(answers)["input_ids"]]
    width = max(len(p) + len(a) for p, a in zip(prompt_ids, answer_ids, strict=True))
    ids = torch.full((batch, width), tokenizer.pad_token_id)
    labels = torch.full((batch, width), -100)
    for n, (prompt, answer) in enumerate(zip(prompt_ids, answer_ids, strict=True)):
        end = len(prompt) + len(answer)
        ids[n, :end] = torch.tensor(prompt + answer)
        labels[n, len(prompt) : end] = torch.tensor(answer)
    loss = model(input_ids=ids, attention_mask=ids != tokenizer.pad_token_id, labels=labels).loss
    model.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for each in optimisers:
        each.step()
    return float(loss.detach())


def sloppy(target: str, random: Random) -> str:
    """The answer of a designer with habits."""
    design = json.loads(target)
    field, habit, probability = HABITS[design["part"]]
    if random.random() < probability:
        design[field] = habit
    return write(design)


def schedule(step: int, steps: int) -> float:
    """Linear warm-up over a twentieth, then a cosine to a fiftieth; share of the peak rate."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.49 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


if __name__ == "__main__":
    main(BaseModelConfig, program)
