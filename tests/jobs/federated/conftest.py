"""What the tests of the job environment `federated` share.

pytest --confcutdir=tests/jobs/federated tests/jobs/federated
"""

import csv
import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.federated.config import DATA, FederatedConfig
from jobs.runtime import Job

FEATURES = ["age", "height", "pulse", "sugar"]


def pytest_configure(config: pytest.Config) -> None:
    # what Flower imports does not know its newest packages: typer click, uvicorn websockets, …
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning")
    # PEFT against this transformers
    config.addinivalue_line("filterwarnings", "ignore:.*gradient_checkpointing.*:FutureWarning")


def write_tenant(
    folder: Path, seed: int, rows: int = 60, columns: list[str] | None = None
) -> np.ndarray:
    """A tenant's file with columns in that order; its rows (features, label) as written."""
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(0.3 * seed, 1, (rows, len(FEATURES))), 4)
    noisy = (x - x.mean(0)) @ [2.0, -1.5, 1.0, 0.5] + rng.normal(0, 0.7, rows)
    y = (noisy > 0).astype(int)
    folder.mkdir(parents=True)
    table = {name: x[:, place] for place, name in enumerate(FEATURES)} | {"label": y}
    with (folder / DATA).open("w", newline="") as stream:
        writer = csv.writer(stream)
        names = columns or [*FEATURES, "label"]
        writer.writerow(names)
        writer.writerows(zip(*(table[name].tolist() for name in names), strict=True))
    return np.column_stack([x, y])


def traces_of(tables: Iterable[np.ndarray]) -> list[bytes]:
    """What of these rows' features would be found in bytes that hold them: two neighbours as either
    kind of float, and each as text.

    Four bytes alone say nothing: those of -0.5 are three zeros and one more, and any four are found
    once in a few hundred runs."""
    found: set[bytes] = set()
    for table in tables:
        for values in (table[:, :4], table[:, :4].T):  # by rows, by columns
            pairs = [pair for row in values for pair in pairwise(row)]
            found |= {np.array(pair, kind).tobytes() for pair in pairs for kind in ("f4", "f8")}
            found |= {f"{value:.4f}".encode() for value in values.ravel() if abs(value) > 1}
    return [trace for trace in found if len(trace) > 6]


@pytest.fixture
def as_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process makes messages as a node of Flower does."""
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("task_id", "run_id", "node_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


@pytest.fixture(scope="session")
def make_config() -> Callable[..., dict[str, Any]]:
    """A job's config over a folder of tenants: make_config(folder, rounds={...}, ...)."""

    def make(folder: Path, **told: Any) -> dict[str, Any]:
        usual = {"rounds": 3, "minimum_tenants": 2, "round_seconds": 60}
        return (
            {
                "tenants": str(folder),
                "names": sorted(path.name for path in folder.iterdir()),
                "features": FEATURES,
                "label": "label",
                "seed": 0,
                "centralised": False,
                "spent": {},
                "privacy": {},
            }
            | told
            | {"rounds": usual | told.get("rounds", {})}
        )

    return make


@pytest.fixture(scope="session")
def make_job(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Job]:
    """A job in a folder of its own, not begun."""

    def make(config: dict[str, Any]) -> Job:
        folder = tmp_path_factory.mktemp("job")
        spec = {
            "name": "federated.train",
            "environment": "federated",
            "config": config,
            "output": (folder / "out").as_uri(),
            "max_hours": 1,
            "key": folder.name,
        }
        (folder / "spec.json").write_text(json.dumps(spec))
        return Job(folder, FederatedConfig)

    return make
