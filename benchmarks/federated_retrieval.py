"""Encoders of items, each tenant alone, federated and of all items: recall at 1 and 5, five seeds.

    python -m benchmarks.federated_retrieval ../shared/data [--seeds 42,43,44,45,46]

Run it in the job environment `federated-test`. The rounds are the job's own functions, called in
one process: no node, no network. Two sets of items that exist:

- machined features of CAD parts (MFCAD, in STEP), of eight workshops: one item for each kind of
  feature of a part, its largest face, and the kind as its group. Which workshop has which part is
  drawn from Dirichlet's distribution by kind; a part is held out with all its items;
- patients of four hospitals (UCI heart disease), as `benchmarks.federated_hospitals` splits them,
  with the diagnosis as the group.
"""

import argparse
import csv
import json
import logging
import re
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from flwr.app import Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from benchmarks.federated_hospitals import FILES, write_tenants
from jobs.federated import client, encoders, strategies
from jobs.federated.config import DATA, FederatedConfig
from jobs.federated.encoders import EncoderLearner
from jobs.federated.model import Weights

STOCK = 15
WORKSHOPS, CONCENTRATION, HELD_OUT = 8, 0.5, 0.34
FEATURES = (
    "edges loops perimeter shortest longest width depth height rise normal_x normal_y normal_z "
    "neighbours convex concave flat_angle least_angle neighbour_edges neighbour_loops"
).split()
SETTINGS = {"hidden": 32, "rounds": 10, "local_steps": 20}
DRAWS = 2000


class Face(NamedTuple):
    """A planar face: its edges by number, all its corners and its outward normal."""

    edges: list[str]
    loops: int
    lengths: np.ndarray
    corners: np.ndarray
    normal: np.ndarray


def faces(text: str) -> dict[int, Face]:
    """Those of a part in STEP, by the number that is their name."""
    entities = dict(re.findall(r"#(\d+)=(\w+\(.*?\));", re.sub(r"\s", "", text)))

    def of(number: str) -> list[str]:
        return re.findall(r"#(\d+)", entities[number])

    def values(number: str) -> np.ndarray:
        inner = entities[number].rpartition("(")[2].rstrip(")")
        return np.array([float(value) for value in inner.split(",")])

    found = {}
    for entity in list(entities.values()):
        if not entity.startswith("ADVANCED_FACE"):
            continue
        *bounds, plane = re.findall(r"#(\d+)", entity)
        edges = [of(oriented)[0] for b in bounds for oriented in of(of(b)[0])]
        ends = [[values(of(vertex)[0]) for vertex in of(edge)[:2]] for edge in edges]
        pairs = np.array(ends)
        axis = values(of(of(plane)[0])[1])
        found[int(entity.split("'")[1])] = Face(
            edges,
            len(bounds),
            np.linalg.norm(pairs[:, 0] - pairs[:, 1], axis=1),
            pairs.reshape(-1, 3),
            -axis if entity.endswith(".F.)") else axis,
        )
    return found


def described(number: int, part: dict[int, Face]) -> list[float]:
    """FEATURES of one face; angles as cosines between normals."""
    face, users = part[number], defaultdict(set)
    for other, each in part.items():
        for edge in each.edges:
            users[edge].add(other)
    beside = [part[n] for n in sorted({n for e in face.edges for n in users[e]} - {number})]
    middle = face.corners.mean(0)
    height = [float((each.corners.mean(0) - middle) @ face.normal) for each in beside]
    angles = [float(each.normal @ face.normal) for each in beside] or [0.0]
    low, high = face.corners.min(0), face.corners.max(0)
    return [
        len(face.edges),
        face.loops,
        face.lengths.sum(),
        face.lengths.min(),
        face.lengths.max(),
        *sorted(high - low),
        middle[2],
        *np.abs(face.normal),
        len(beside),
        sum(h < -1e-6 for h in height),
        sum(h > 1e-6 for h in height),
        float(np.mean(angles)),
        min(angles),
        float(np.mean([len(each.edges) for each in beside] or [0])),
        float(np.mean([each.loops for each in beside] or [0])),
    ]


def read_parts(source: Path) -> list[list[tuple[list[float], int]]]:
    """By part: (features, kind) of the largest face of each kind that was machined."""
    parts = []
    for line in (source / "labels.jsonl").read_text().splitlines():
        told = json.loads(line)
        if not (source / "step" / told["file"]).exists():
            continue
        part = faces((source / "step" / told["file"]).read_text())
        largest: dict[int, int] = {}
        for number, kind in enumerate(told["face_labels"]):
            before = largest.get(kind)
            if before is None or part[number].lengths.sum() > part[before].lengths.sum():
                largest[kind] = number
        largest.pop(STOCK, None)
        parts.append([(described(number, part), kind) for kind, number in sorted(largest.items())])
    return parts


def write_workshops(parts: list[list[tuple[list[float], int]]], folder: Path, seed: int) -> None:
    """A file of each workshop, with its `held_out` column."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet([CONCENTRATION] * WORKSHOPS, STOCK)
    rows: dict[int, list[list[Any]]] = {number: [] for number in range(WORKSHOPS)}
    for part in parts:
        kind = part[rng.integers(len(part))][1]
        workshop = int(rng.choice(WORKSHOPS, p=0.9 * shares[kind] + 0.1 / WORKSHOPS))
        held_out = int(rng.random() < HELD_OUT)
        rows[workshop] += [[*features, f"kind {kind}", held_out] for features, kind in part]
    for number, table in rows.items():
        place = folder / f"workshop{number}"
        place.mkdir(parents=True)
        with (place / DATA).open("w", newline="") as stream:
            csv.writer(stream).writerows([[*FEATURES, "kind", "held_out"], *table])


def config_of(folder: Path, features: list[str], group: str, seed: int, **rounds: Any) -> Any:
    told: dict[str, Any] = {
        "tenants": str(folder),
        "names": sorted(p.name for p in folder.iterdir()),
    }
    told |= {"features": features, "label": "label", "group": group, "seed": seed}
    told |= {"centralised": False, "spent": {}, "privacy": {}, "rounds": SETTINGS | rounds}
    return FederatedConfig.model_validate(told)


def federate(config: FederatedConfig, learners: list[EncoderLearner]) -> Weights:
    """All rounds, in this process."""
    weights, strategy = encoders.initial(config), strategies.make(config)
    for number in range(1, config.rounds.rounds + 1):
        replies = []
        for learner in learners:
            content = RecordDict({"arrays": client.record_of(weights)})
            answer = client.improve(content, number, learner)
            counts = dict(answer.metric_records["metrics"])
            answer["metrics"] = MetricRecord({name: counts[name] for name in client.COUNTS})
            asked = Message(RecordDict(), dst_node_id=1, message_type="train")
            replies.append(Message(answer, reply_to=asked))
        weights = strategies.aggregate(strategy, config, number, weights, replies)
    return weights


def judged(config: FederatedConfig) -> dict[str, list[tuple[np.ndarray, float]]]:
    """By model: of each tenant which queries are right at 1, and its recall at 5."""
    data = [encoders.load(config, Path(config.tenants) / name) for name in config.names]
    learners = [EncoderLearner(config, each) for each in data]
    whole = EncoderLearner(config, encoders.together(data)).alone()
    begun, shared = encoders.initial(config), federate(config, learners)
    models = {
        "no training": [begun] * len(data),
        "local only": [learner.alone() for learner in learners],
        "federated": [shared] * len(data),
        "centralised": [whole] * len(data),
    }
    found = {"features as they are": [raw(learner) for learner in learners]}
    for name, weights in models.items():
        told = [learner.judge(own) for learner, own in zip(learners, weights, strict=True)]
        found[name] = [(right, scores["recall5"]) for right, scores in told]
    return found


def raw(learner: EncoderLearner) -> tuple[np.ndarray, float]:
    """Recall by the cosine of the scaled features."""
    everything = torch.nn.functional.normalize(torch.cat([learner.x, learner.held_out]))
    numbers = torch.cat([learner.numbers, learner.held_out_numbers])
    hits = encoders.alike(everything, numbers, learner.queries + len(learner.x))
    return hits[:, 0].numpy(), float(hits.any(1).float().mean())


def show(title: str, seeds: list[dict[str, list[tuple[np.ndarray, float]]]]) -> None:
    """Recall over all queries by model, mean and deviation of the seeds; gain over local only."""
    queries = [sum(len(right) for right, _ in one["federated"]) for one in seeds]
    print(f"\n{title}: {min(queries)} to {max(queries)} queries\n")
    print("| items are compared by | recall@1 | recall@5 | recall@1, mean of tenants |")
    print("|---|---:|---:|---:|")
    for name in seeds[0]:
        ones = [np.concatenate([right for right, _ in one[name]]).mean() for one in seeds]
        means = [np.mean([right.mean() for right, _ in one[name]]) for one in seeds]
        fives = [
            np.average([five for _, five in one[name]], weights=[len(r) for r, _ in one[name]])
            for one in seeds
        ]
        cells = [f"{np.mean(v):.3f} ± {np.std(v, ddof=1):.3f}" for v in (ones, fives, means)]
        print(f"| {name} | {' | '.join(cells)} |")
    for name in ("federated", "centralised"):
        gains = [
            np.concatenate([right for right, _ in one[name]]).mean()
            - np.concatenate([right for right, _ in one["local only"]]).mean()
            for one in seeds
        ]
        print(f"{name} over local only by seed: {' '.join(f'{gain:+.3f}' for gain in gains)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--seeds", default="42,43,44,45,46")
    parser.add_argument("--rounds", type=json.loads, default={})
    asked = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    parts = read_parts(asked.source / "mfcad")
    cad, hearts = [], []
    for seed in map(int, asked.seeds.split(",")):
        with TemporaryDirectory() as name:
            folder = Path(name)
            write_workshops(parts, folder / "workshops", seed)
            told = config_of(folder / "workshops", FEATURES, "kind", seed, **asked.rounds)
            cad.append(judged(told))
            hospitals = folder / "hospitals"
            names = write_tenants(
                asked.source / "heart-disease-4-hospitals", hospitals, seed, complete=False
            )
            hearts.append(judged(config_of(hospitals, names, "label", seed, **asked.rounds)))
    show(f"{len(parts)} CAD parts of {WORKSHOPS} workshops", cad)
    show(f"Patients of {len(FILES)} hospitals", hearts)


if __name__ == "__main__":
    main()
