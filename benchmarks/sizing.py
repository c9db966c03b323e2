"""What a night needs by the size of its model: CPU seconds and memory of a few iterations of PPO.

    python -m benchmarks.sizing [--sizes 3 25 100] [--iterations 3]

Run it in the job environment `train`. Models of Llama's shape with random weights, a vocabulary of
32,000 as real ones have, one thread. Each is a process of its own; an iteration's CPU seconds are
those between two reports of progress, greedy answers to the probe prompts included.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from infra.objects import put

SHAPES = {3: (64, 4), 25: (320, 12), 100: (640, 16), 500: (1280, 24)}
"""Million parameters, about → (hidden size, layers)."""
VOCABULARY = 32_000
PROMPTS = [f"Write one sentence about the number {number}." for number in range(40)]
ROLLOUTS, SAMPLES, TOKENS = 16, 4, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[3, 25, 100])
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(train(Path(options.child))))
        return
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_job(Path(folder), size, options.iterations)
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.sizing", "--child", folder],
                env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        print(json.dumps({"size": size} | json.loads(done.stdout.splitlines()[-1])), flush=True)


def write_job(folder: Path, size: int, iterations: int) -> None:
    """A job folder with a random model, prompts and a reward."""
    base, inputs = folder / "base", folder / "given"
    write_model(base, *SHAPES[size])
    inputs.mkdir()
    prompts, reward = inputs / "prompts.jsonl", inputs / "reward.py"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    reward.write_text(
        "def reward(prompts, completions, **columns):\n"
        "    return [len(set(text)) / 100 for text in completions]\n"
    )
    given = {"base": base, "prompts": prompts, "reward": reward}
    spec = {
        "name": "ppo.train",
        "environment": "train",
        "config": {
            "reward": "reward.py:reward",
            "max_new_tokens": TOKENS,
            "iterations": iterations,
            "rollouts": ROLLOUTS,
            "samples_per_prompt": SAMPLES,
            "minibatch": ROLLOUTS,
        },
        "inputs": {k: put(path, (folder / "stored" / k).as_uri()).uri for k, path in given.items()},
        "output": (folder / "output").as_uri(),
        "max_hours": 1,
        "key": "sizing/train",
    }
    (folder / "spec.json").write_text(json.dumps(spec))


def write_model(folder: Path, hidden: int, layers: int) -> None:
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = ["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    letters += [f"<{number}>" for number in range(VOCABULARY - len(letters))]
    tokenizer = Tokenizer(BPE({letter: n for n, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    shape = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=0,
        bos_token_id=None,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)


def train(folder: Path) -> dict[str, Any]:
    """{parameters, tokens_an_iteration, first_seconds, iteration_seconds, memory_gb}. Seconds are
    of the CPU; the first has loading and the first answers to the probe in it."""
    from jobs.policy.model import load_base
    from jobs.ppo.config import PPOConfig
    from jobs.ppo.train import program
    from jobs.runtime import Job

    job = Job(folder, PPOConfig)
    reported: list[float] = []
    report = job.progress

    def note(*told: Any, **metrics: float) -> None:
        reported.append(time.process_time())
        report(*told, **metrics)

    job.progress = note
    began = time.process_time()
    program(job)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    model = load_base(job.config, job.input("base"), weights=False).model
    return {
        "parameters": sum(one.numel() for one in model.parameters()),
        "tokens_an_iteration": ROLLOUTS * TOKENS,
        "first_seconds": round(reported[0] - began, 1),
        "iteration_seconds": [round(b - a, 1) for a, b in pairwise(reported)],
        "memory_gb": round(peak, 2),
    }


if __name__ == "__main__":
    main()
