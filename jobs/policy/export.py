"""A candidate's adapter merged into its base: a model of its own, as save_pretrained() writes it.

    python -m jobs.policy.export --candidate FOLDER --output FOLDER [--base FOLDER]

Without `--base` the base is the hub id that the candidate names. It is merged in float32, and
written in the number format of the base, with its tokenizer; the value head stays behind.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig

from infra.errors import NightshiftError
from jobs.policy.config import ModelConfig
from jobs.policy.model import load_base, load_candidate


def merge(candidate: Path, base: Path | None, output: Path) -> None:
    """Write the merged model into `output`. Raises InputError where the two do not fit."""
    named = json.loads((candidate / "base.json").read_text())["uri"]
    where = str(base or named)
    policy = load_base(ModelConfig(model=where, dtype="float32"), base)
    load_candidate(policy, candidate)
    merged = policy.model.merge_and_unload()
    kept = getattr(AutoConfig.from_pretrained(where), "dtype", None) or torch.float32
    merged.to(kept).save_pretrained(output)
    policy.tokenizer.save_pretrained(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--candidate", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--base", type=Path)
    arguments = parser.parse_args()
    try:
        merge(arguments.candidate, arguments.base, arguments.output)
    except NightshiftError as error:
        sys.stderr.write(f"✗ {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
