"""Tenants train an encoder of their items together, as a user starts it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from infra.compute.environments import ensure
from infra.settings import settings
from tests.helpers.users import Shared, make_home, reachable_folder

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]
ROUNDS = (
    "run federated-rounds --name finder --tenants tenants --group family --rounds 1 --hidden 8"
    " --local-steps 20 --dimensions 4 --hours 0.2 --max-cost 1 --minimum-gain -0.9"
    " --max-tenant-loss 1"
).split()


def write_items(folder: Path, seed: int) -> None:
    """Eight items of each of twelve families, which one column of three tells."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    with (folder / "data.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["family", "size", "noise", "more"])
        for family in range(12):
            for _ in range(8):
                table.writerow([f"f{family}", *rng.normal([family, 0, 0], [0.2, 3, 3]).round(4)])


def test_a_night_trains_judges_and_deploys_an_encoder(shared: Shared) -> None:
    settings.cache_clear()
    python = ensure("federated")
    with reachable_folder() as folder:
        user = make_home(folder, python, shared.settings())
        for seed, name in enumerate(("north", "west")):
            write_items(folder / "tenants" / name, seed)
        told = user.json(*ROUNDS)
        assert told["verdict"]["promote"], told["verdict"]
        assert "recall@1" in told["verdict"]["checks"][0]["explanation"]
        assert 20 < told["collected"]["queries judged"] < 150
        report = Path(told["files"]["markdown"]).read_text()
        assert "| **all queries** |" in report and "an encoder of 8 hidden units" in report
        model = json.loads((Path(told["served_from"]) / "model.json").read_text())
        assert model["group"] == "family" and model["dimensions"] == 4
        code, _, err = user.run_here(*ROUNDS[:6], "--label", "noise", "--rounds", "2")
        assert code == 2 and "--group: the champion is an encoder of groups by 'family'" in err
        code, _, err = user.run_here("serve", "policy", "--name", "finder")
        assert code == 2 and "federated" in err and "→" in err and "Traceback" not in err
        user.wait_until_nothing_runs()
