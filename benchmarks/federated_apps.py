"""Apps that do a round of a federation whenever they are asked: ours, and the bare one of Flower.

`ours` runs the rounds of `jobs.federated.server` with its ClientApp. `bare` is what one writes with
Flower alone: its FedAvg, and a ClientApp that trains the same model on the same rows. Neither knows
of the other; a round is asked for by a line in the pipe ASKED of the job's folder, and its seconds
are told in TOLD.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from jobs.federated import model
from jobs.federated.client import record_of, weights_of
from jobs.federated.config import DATA, FederatedConfig
from jobs.federated.data import load
from jobs.federated.server import NODES, Federation
from jobs.runtime import Job

ASKED, TOLD = "asked", "told"
ours, bare, bare_client = ServerApp(), ServerApp(), ClientApp()


def whenever_asked(folder: Path, do_round: Callable[[], object]) -> None:
    """Do a round for each line of ASKED, and tell its seconds."""
    with (folder / ASKED).open() as asked, (folder / TOLD).open("w", buffering=1) as told:
        told.write("ready\n")
        for _ in asked:
            began = time.perf_counter()
            do_round()
            told.write(f"{time.perf_counter() - began}\n")


@ours.main()
def run_ours(grid: Grid, context: Context) -> None:
    """Rounds as a job does them, their checkpoints included."""
    job = Job(Path(str(context.run_config["job"])), FederatedConfig)
    nodes = json.loads((job.scratch / NODES).read_text())
    federation = Federation(job, grid, {int(node): name for node, name in nodes.items()})
    federation.wait_for_nodes()
    total = job.config.rounds.rounds
    whenever_asked(job.folder, lambda: federation.train_round(federation.state.number + 1, total))


@bare.main()
def run_bare(grid: Grid, context: Context) -> None:
    """Rounds of Flower's own FedAvg with all nodes, without evaluation."""
    folder = Path(str(context.run_config["job"]))
    job = Job(folder, FederatedConfig)
    config, tenants = job.config, len(job.config.names)
    strategy = FedAvg(fraction_evaluate=0, min_train_nodes=tenants, min_available_nodes=tenants)
    weights = model.initial(len(config.features), config.rounds.hidden, config.seed)
    arrays, told = record_of(weights), ConfigRecord({"job": config.model_dump_json()})

    def do_round() -> None:
        nonlocal arrays
        arrays = strategy.start(grid, arrays, num_rounds=1, train_config=told).arrays

    whenever_asked(folder, do_round)


@bare_client.train()
def train(message: Message, context: Context) -> Message:
    """The tenant's update, and how many rows it has."""
    config = FederatedConfig.model_validate_json(
        str(message.content.config_records["config"]["job"])
    )
    path = Path(str(context.node_config["folder"])) / DATA
    table, rounds = load(path, config.features, config.label), config.rounds
    begun = weights_of(message.content, "arrays")
    found = model.fit(
        begun, table.train_x, table.train_y, rounds.local_steps, rounds.learning_rate, rounds.decay
    )
    arrays: ArrayRecord = record_of(found)
    metrics = MetricRecord({"num-examples": float(len(table.train_y))})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
