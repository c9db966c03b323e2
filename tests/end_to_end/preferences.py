"""A DPO training that takes seconds, and preferences for it."""

import json
from pathlib import Path

TRAINING = (
    "run dpo-training --name words --model model --dataset pairs.jsonl --reward myrewards:vowels"
    " --max-new-tokens 12 --max-tokens 48 --epochs 2 --learning-rate 0.01 --beta 0.3"
    " --hours 0.05 --data-hours 0.05 --transfer-hours 0.05 --deploy-hours 0.05 --max-cost 1"
    " --max-length-ratio 20 --max-perplexity-ratio 1000 --max-invalid-increase 1 --max-kl 1000"
    " --max-kl-per-token 100 --max-repetition-increase 1 --min-distinct-ratio 0"
    " --max-identical-increase 1 --max-compression-ratio 50 --max-unfinished 1"
    " --max-length-correlation 1"
).split()


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def vowels_win(count: int = 160) -> list[dict]:
    return [
        {
            "prompt": f"word {n}: ",
            "chosen": "aeiou"[: 2 + n % 4] * 2,
            "rejected": "xkcd" * 2,
            "weight": 0.8 + n % 5 / 10,
        }
        for n in range(count)
    ]
