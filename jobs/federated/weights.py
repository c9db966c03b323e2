"""A federated model in a folder: model.json says what it is, weights.npz holds its arrays."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jobs.federated.config import FederatedConfig
from jobs.federated.model import Weights

MODEL, ARRAYS = "model.json", "weights.npz"


def write_weights(folder: Path, weights: Weights, config: FederatedConfig) -> Path:
    """The folder, with the model in it."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / ARRAYS, allow_pickle=False, **weights)
    told = {
        "features": config.features,
        **_learnt(config),
        "hidden": config.rounds.hidden,
        "standardised": "by ranges" if config.ranges else "by each tenant's own training rows",
        "ranges": config.ranges,
    }
    (folder / MODEL).write_text(json.dumps(told, indent=1))
    return folder


def _learnt(config: FederatedConfig) -> dict[str, Any]:
    """What a table's model predicts, or an encoder holds together."""
    if config.group:
        return {"group": config.group, "dimensions": config.encoders.dimensions}
    return {"label": config.label}


def read_weights(folder: Path) -> Weights:
    """The arrays by name."""
    with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
