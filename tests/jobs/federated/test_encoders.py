"""Encoders of items: what is read and refused, what a tenant computes and tells, one federation."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from sklearn.neighbors import NearestNeighbors

from infra.errors import InputError
from infra.objects import put
from jobs.federated import client, encoders, items, train
from jobs.federated.config import DATA, FederatedConfig
from jobs.federated.encoders import EncoderLearner
from jobs.federated.items import Items
from jobs.runtime import Job
from tests.jobs.federated.conftest import FEATURES, traces_of

pytestmark = pytest.mark.timeout(600)
TENANTS = ("hill", "lake", "wood")
TOLD = {"rounds": 2, "local_steps": 40, "hidden": 8, "minimum_tenants": 3}
GROUPS, EACH = 12, 8


def write_items(folder: Path, seed: int) -> np.ndarray:
    """A tenant's items; only the first two features, with the least spread, tell their groups."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(GROUPS, 2))
    groups = np.repeat(np.arange(GROUPS), EACH)
    told = centres[groups] + rng.normal(0, 0.3, (len(groups), 2))
    x = np.round(np.column_stack([told, rng.normal(0, 5, (len(groups), 2))]), 4)
    folder.mkdir(parents=True)
    with (folder / DATA).open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow([*FEATURES, "family"])
        table.writerows(
            [*row, f"{folder.name} family {g}"] for row, g in zip(x, groups, strict=True)
        )
    return x


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tenants")
    for seed, name in enumerate(TENANTS):
        write_items(folder / name, seed)
    return folder


@pytest.fixture(scope="module")
def config(tenants: Path, make_config: Callable[..., dict[str, Any]]) -> FederatedConfig:
    told = make_config(tenants, group="family", encoders={"dimensions": 4}, rounds=TOLD)
    return FederatedConfig.model_validate(told)


def learner(config: FederatedConfig, name: str = "hill") -> EncoderLearner:
    return EncoderLearner(config, encoders.load(config, Path(config.tenants) / name))


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["age,kind", *["1,a"] * 30], "two groups to train on"),
        (["age,kind,held_out", *(f"{n},secret{n},0" for n in range(30))], "one of them with two"),
        (["age,kind", "2,", *["1,a", "1,b"] * 30], "the column kind is empty in some lines"),
        (["age,kind", "secret,b", *["1,a"] * 30], "line 2, column age is no finite number"),
        (["age", *["1"] * 30], "the column kind is missing"),
        (
            ["age,kind,held_out", *["1,a,0", "1,b,0"] * 10, "2,secret,1", "3,a,1"],
            "fewer than 2 held-out items have another one of their group",
        ),
    ],
)
def test_what_is_wrong_is_named_without_its_value(
    tmp_path: Path, lines: list[str], named: str
) -> None:
    (tmp_path / DATA).write_text("\n".join(lines))
    with pytest.raises(InputError) as error:
        items.load(tmp_path / DATA, ["age"], "kind")
    assert named in error.value.message and "secret" not in error.value.message


def test_an_item_stays_in_its_part_and_groups_may_be_numbers(tmp_path: Path) -> None:
    rows = [f"{n},{n % 3},{n % 7}" for n in range(60)]
    (tmp_path / DATA).write_text("\n".join(["age,kind,size", *rows]))
    before = items.load(tmp_path / DATA, ["age"], "kind")
    (tmp_path / DATA).write_text("\n".join(["age,kind,size", "99,7,1", "98,7,1", *rows]))
    after = items.load(tmp_path / DATA, ["age"], "kind")
    kept = [group for group in after.held_out_groups if group != "7"]
    assert kept == before.held_out_groups.tolist() and set(kept) == {"0", "1", "2"}


def test_recall_is_told_of_the_nearest_other_items(config: FederatedConfig) -> None:
    """As scikit-learn's neighbours tell it, over training and held-out items."""
    one = learner(config)
    weights = one.improve(encoders.initial(config), 1)
    right, scores = one.judge(weights)
    everything = torch.cat([one.x, one.held_out]).numpy().astype(float)
    layers = [weights[name].astype(float) for name in ("0.weight", "0.bias", "2.weight", "2.bias")]
    found = np.tanh(everything @ layers[0].T + layers[1]) @ layers[2].T + layers[3]
    near = NearestNeighbors(n_neighbors=6, metric="cosine").fit(found).kneighbors(found)[1][:, 1:]
    numbers = torch.cat([one.numbers, one.held_out_numbers]).numpy()
    queries = one.queries.numpy() + len(one.x)
    hits = numbers[near[queries]] == numbers[queries][:, None]
    assert right.tolist() == hits[:, 0].tolist()
    assert scores["recall5"] == pytest.approx(hits.any(1).mean()) and 0 < scores["loss"] < 10


def test_who_has_no_other_of_its_group_is_no_query(config: FederatedConfig) -> None:
    x = np.zeros((6, len(FEATURES)))
    groups = np.array(["a", "a", "b", "b", "c", "c"])
    own = Items(x, groups, np.ones((4, len(FEATURES))), np.array(["a", "d", "b", "a"]))
    one = EncoderLearner(config, own)
    assert one.queries.tolist() == [0, 2, 3] and one.groups.tolist() == [0, 1, 0]
    assert len(one.judge(encoders.initial(config))[0]) == 3


def test_training_finds_what_tells_the_groups(config: FederatedConfig) -> None:
    one = learner(config)
    begun = encoders.initial(config)
    before, after = one.judge(begun), one.judge(one.alone())
    assert after[0].mean() > before[0].mean() + 0.15
    assert after[1]["recall5"] >= after[0].mean()


def test_the_same_round_gives_the_same_update(config: FederatedConfig) -> None:
    begun = encoders.initial(config)
    first, again = (learner(config).improve(begun, 1) for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_fedprox_stays_nearer(config: FederatedConfig) -> None:
    begun = encoders.initial(config)

    def moved(**rounds: object) -> float:
        told = config.model_copy(update={"rounds": config.rounds.model_copy(update=rounds)})
        found = learner(told).improve(begun, 1)
        return sum(float(((found[n] - begun[n]) ** 2).sum()) for n in found)

    assert moved(strategy="fedprox", proximal=10.0) < 0.9 * moved()


@pytest.mark.parametrize(("groups", "each"), [(5, 1000), (2000, 3)])
def test_a_step_has_several_items_of_its_groups(groups: int, each: int) -> None:
    numbers = np.repeat(np.arange(groups), each)
    first, later = (encoders.draw(numbers, np.random.default_rng(n)) for n in (1, 2))
    assert len(set(first)) == len(first) and len(first) > encoders.MOST_AT_ONCE - groups
    assert len(first) <= encoders.MOST_AT_ONCE and set(first) != set(later)
    sizes = np.unique(numbers[first], return_counts=True)[1]
    assert np.median(sizes) >= min(each, encoders.FEWEST_OF_A_GROUP) and len(sizes) > 1


@pytest.mark.usefixtures("as_node")
def test_a_judgement_tells_sums_over_groups(config: FederatedConfig) -> None:
    """The variance over groups follows from them, and no single group does."""
    one = learner(config)
    candidate = one.alone()
    told = ConfigRecord({"job": config.model_dump_json(), "round": 3})
    content = RecordDict({"arrays": client.record_of(candidate), "config": told})
    own = {"folder": str(Path(config.tenants) / "hill"), "base": ""}
    message = Message(content, dst_node_id=1, message_type="evaluate")
    reply = client.evaluate(message, Context(1, 1, own, RecordDict(), {})).content
    counts: dict[str, Any] = dict(reply.metric_records["metrics"])
    assert set(client.judged_counts(config, ["candidate", "local"])) <= set(counts)
    assert counts["local-gains-gains"] == 0, "it is the same model"
    sizes = np.bincount(one.groups)
    assert counts["sizes-sizes"] == (sizes**2).sum() and counts["groups"] == len(sizes)
    assert counts["held-out"] == sizes.sum() == len(one.queries)


def test_a_federation_trains_an_encoder(
    tenants: Path,
    config: FederatedConfig,
    make_job: Callable[[dict[str, Any]], Job],
    tmp_path: Path,
) -> None:
    """Real nodes, by secure aggregation and with noise for tenants: no value and no group's name
    leaves them, and the next version goes on from what comes."""
    told = config.model_dump() | {"centralised": True, "privacy": {"noise_multiplier": 0.01}}
    told["privacy"] |= {"max_epsilon": 1e9, "clipping_norm": 10.0}
    told["rounds"] |= {"secure_aggregation": True, "round_seconds": 240.0}
    job, answer = make_job(told), client._answer

    def recorded(*given: Any) -> Any:
        reply = answer(*given)
        sent = [reply.content.deflate(), repr(reply.content).encode()]
        for record in reply.content.array_records.values():
            sent += [array.data for array in record.values()]
        (tmp_path / f"{id(reply)}-{len(list(tmp_path.iterdir()))}").write_bytes(b"".join(sent))
        return reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_answer", recorded)
        outcome = train.program(job)
    everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    written = [
        np.array([[float(v) for v in line.split(",")[:4]] for line in lines])
        for name in TENANTS
        for lines in [(tenants / name / DATA).read_text().splitlines()[1:]]
    ]
    traces = traces_of(written)
    assert len(traces) > 500 and b"gains-sizes" in everything
    assert not [trace for trace in [*traces, b" family "] if trace in everything]
    rows = [json.loads(line) for line in outcome.artifacts["evaluation"].read_text().splitlines()]
    assert [row["tenant"] for row in rows] == list(TENANTS)
    for row in rows:
        names = client.judged_counts(config, ["candidate", "local", "centralised"])
        assert set(names) <= set(row), row
        assert row["candidate-right"] / row["held-out"] > 0.5
    candidate = outcome.artifacts["candidate"]
    model = json.loads((candidate / "model.json").read_text())
    assert (model["group"], model["dimensions"], model["hidden"]) == ("family", 4, 8)
    later = make_job(told)
    later.spec = later.spec.model_copy(
        update={"inputs": {"champion": put(candidate, (tmp_path / "c").as_uri()).uri}}
    )
    begun = encoders.begin(later)
    assert {name: value.shape for name, value in begun.items()} == {
        name: value.shape for name, value in encoders.initial(config).items()
    }
    assert any(np.abs(begun[n] - encoders.initial(config)[n]).max() > 0.01 for n in begun)
