"""A tenant's end: its clock, whose code it runs, and what its errors tell; what the door shows."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.config import parse_config_args
from flwr.supernode.runtime import run_clientapp

from jobs.federated import client, federation, tenant
from jobs.federated.config import FederatedConfig
from jobs.federated.door import Door
from jobs.federated.model import initial
from jobs.federated.remote import Guard, notes_of
from tests.jobs.federated.conftest import FEATURES, write_tenant


@pytest.mark.parametrize(
    ("off", "said"),
    [
        (0, None),
        (3.5, None),
        (-200, None),
        (3600, "3600 s ahead of"),
        (-3600, "3600 s behind"),
        (5, "5 s ahead of"),
    ],
)
def test_a_clock_that_flower_would_refuse_is_named(off: float, said: str | None) -> None:
    fault = tenant.clock_fault(1000.0 + off, 1000.0 + off, 1000.0)
    assert fault is None if said is None else said in (fault or "")


def test_a_slow_answer_is_no_wrong_clock() -> None:
    assert tenant.clock_fault(1000.0, 1030.0, 1015.0) is None


def ask(monkeypatch: pytest.MonkeyPatch, app: Any) -> list[str]:
    """What a node's people hear while `app` answers round 3 in place of ours."""
    said: list[str] = []
    monkeypatch.setattr(client, "app", app)
    for name in ("install_from_fab", "get_load_client_app_fn"):
        monkeypatch.setattr(run_clientapp, name, getattr(run_clientapp, name))
    tenant.run_only_ours(said.append)
    loaded = run_clientapp.get_load_client_app_fn("", None, True)("stranger/app", "9", "hash")
    content = RecordDict({"config": ConfigRecord({"round": 3})})
    try:
        loaded(message=SimpleNamespace(content=content), context=SimpleNamespace())
    except RuntimeError as error:
        said.append(str(error))
    return said


def test_whatever_bundle_comes_the_installed_app_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = SimpleNamespace(content=RecordDict())
    assert ask(monkeypatch, lambda *_: reply) == ["round 3: answered"]


def test_an_error_leaves_as_its_kind_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("/home/north/data.csv holds 37.2")

    assert ask(monkeypatch, fail) == ["round 3: failed (ValueError)", "ValueError"]


@pytest.mark.parametrize(
    ("path", "host", "headers", "status"),
    [
        ("/v1/control/start-run", "192.0.2.9", {}, 403),
        ("/v1/runtime/pull-messages", "192.0.2.9", {}, 403),
        ("/docs", "192.0.2.9", {}, 403),
        ("/docs", "127.0.0.1", {}, 200),
        ("/v1/fleet/pull-messages", "127.0.0.1", {}, 403),
        ("/v1/fleet/pull-messages", "127.0.0.1", {"flwr-public-key": "?"}, 403),
        ("/v1/tenant", "192.0.2.9", {}, 413),
        ("/v1/tenant", "192.0.2.9", {"content-length": "9000"}, 413),
        ("/v1/tenant", "192.0.2.9", {"content-length": "900"}, 200),
    ],
)
def test_a_stranger_reaches_the_door_and_nothing_behind_it(
    path: str, host: str, headers: dict[str, str], status: int, tmp_path: Path
) -> None:
    async def inside(_: Any) -> Any:
        return SimpleNamespace(status_code=200)

    asked: Any = SimpleNamespace(
        url=SimpleNamespace(path=path), headers=headers, client=SimpleNamespace(host=host)
    )
    answer = asyncio.run(Guard(Door(tmp_path), "127.0.0.1").admit(asked, inside))
    assert answer.status_code == status


def test_the_owner_hears_of_each_tenant_what_the_server_knows() -> None:
    """With secure aggregation that is not how many rows each has."""
    row = {"round": 2, "took_part": ["east", "north"], "left_out": {"west": "late"}}
    apart = {"east": {"num-examples": 10.0}, "north": {"num-examples": 30.0}}
    told = {"run": "ours", "round": 2}
    late = {"west": told | {"left_out": "late"}}
    assert notes_of(row | {"counts": apart}, "ours") == late | {
        "east": told | {"share": 0.25},
        "north": told | {"share": 0.75},
    }
    together = {"all together": {"right": 7.0, "held-out": 9.0}}
    assert notes_of(row | {"counts": together}, "ours") == late | {"east": told, "north": told}


@pytest.mark.usefixtures("as_node")
@pytest.mark.parametrize("only_sums", [False, True])
def test_who_joined_for_sums_shows_no_update_of_its_own(
    only_sums: bool,
    tmp_path: Path,
    make_config: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the run's config says: the server writes that."""
    forked: list[list[str]] = []
    monkeypatch.setattr(federation, "fork", lambda _, arguments, *__: forked.append(arguments) or 1)
    federation.start_node(tmp_path, "", tmp_path, tmp_path, only_sums=only_sums)
    own = parse_config_args([forked[0][forked[0].index("--node-config") + 1]])
    write_tenant(tmp_path / "all" / "north", 1)
    config = FederatedConfig.model_validate(make_config(tmp_path / "all"))
    told = ConfigRecord({"job": config.model_dump_json(), "round": 1})
    content = {"arrays": client.record_of(initial(len(FEATURES), 0, 0)), "config": told}
    message = Message(RecordDict(content), dst_node_id=1, message_type="train")
    own["folder"] = str(tmp_path / "all" / "north")
    said = client.train(message, Context(1, 1, own, RecordDict(), {})).content
    if only_sums:
        assert not said.array_records
        assert "secure aggregation only" in str(said.config_records["refusal"]["reason"])
    else:
        assert "arrays" in said.array_records
