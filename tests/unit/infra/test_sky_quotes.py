"""What becomes of SkyPilot's offers and errors, without SkyPilot."""

import os
import subprocess
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from infra.compute.launcher import JobStatus
from infra.compute.sky import api, presence, quotes
from infra.compute.sky.launcher import SkyLauncher
from infra.contract import Resources
from infra.errors import LaunchError, NoCapacity
from infra.settings import Settings, settings


def offer(price: object, region: str = "aws/eu-west-1") -> SimpleNamespace:
    def get_cost(_seconds: int) -> object:
        if isinstance(price, Exception):
            raise price
        return price

    infra = SimpleNamespace(to_str=lambda: region)
    return SimpleNamespace(
        infra=infra, get_cost=get_cost, cloud="AWS", use_spot=True, instance_type="p5"
    )


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The price list of every cloud, a minute old."""
    path = tmp_path / "vms.csv"
    path.write_text("InstanceType,Price\n")
    monkeypatch.setattr(
        quotes.importlib,
        "import_module",
        lambda _: SimpleNamespace(get_catalog_path=lambda _: path),
    )
    os.utime(path, (time.time() - 60,) * 2)
    settings.cache_clear()
    return path


def test_a_quote_is_the_catalogues_price_rounded_up_and_its_age(catalogue: Path) -> None:
    wanted = Resources(accelerators={"H100": 8}, use_spot=True)
    quote = quotes._quote(offer(12.34561), wanted, "aws/eu-west-1")
    assert quote.hourly_usd == Decimal("12.3457") and quote.spot and quote.instance_type == "p5"
    assert quote.priced_at and datetime.now(UTC) - quote.priced_at > timedelta(seconds=59)


def test_without_a_cloud_the_price_lists_are_told(
    catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(*_: object) -> dict[str, list[SimpleNamespace]]:
        machine = {"cpu_count": 26.0, "memory": 200.0, "spot_price": float("nan")}
        small = machine | {"memory": 1.0, "price": 0.5, "instance_type": "small"}
        whole = machine | {"price": 2.49001, "instance_type": "gpu_1x_h100"}
        return {"H100": [SimpleNamespace(**small), SimpleNamespace(**whole)]}

    def module(name: str) -> SimpleNamespace:
        if name == "sky.catalog.aws_catalog":
            raise OSError("its list cannot be fetched")
        asked = listed if name == "sky.catalog.lambda_catalog" else lambda *_: {}
        return SimpleNamespace(list_accelerators=asked, get_catalog_path=lambda _: catalogue)

    monkeypatch.setattr(quotes.importlib, "import_module", module)
    wanted = Resources(accelerators={"H100": 1})
    (quote,) = quotes.price_list(wanted)
    assert (quote.region, quote.instance_type) == ("lambda", "gpu_1x_h100")
    assert quote.hourly_usd == Decimal("2.4901") and "lambda" in quote.source
    assert quotes.price_list(wanted.model_copy(update={"use_spot": True})) == [], "it has no price"


@pytest.mark.parametrize("price", [0, 0.0, -1])
def test_no_price_is_an_error_and_not_zero(catalogue: Path, price: float) -> None:
    with pytest.raises(LaunchError, match="has no price"):
        quotes._quote(offer(price), Resources(), "slurm/local")


def test_a_catalogue_that_cannot_be_read_is_an_error(catalogue: Path) -> None:
    with pytest.raises(LaunchError, match="has no price: no such row"):
        quotes._quote(offer(ValueError("no such row")), Resources(), "aws/eu-west-1")


def test_a_stale_price_is_an_error(catalogue: Path) -> None:
    os.utime(catalogue, (time.time() - 25 * 3600,) * 2)
    with pytest.raises(LaunchError, match="NIGHTSHIFT_SKY_PRICE_MAX_AGE_HOURS"):
        quotes._quote(offer(1), Resources(), "aws/eu-west-1")


def test_offers_are_sorted_and_those_that_are_refused_are_named(
    catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offers = [offer(9, "aws/b"), offer(3, "gcp/a"), offer(101, "aws/c"), offer(5, "aws/d")]
    monkeypatch.setattr(quotes, "_offers", lambda _: offers)
    monkeypatch.setenv("NIGHTSHIFT_SKY_ALLOWED", "aws/*, slurm/*")
    settings.cache_clear()
    launcher = SkyLauncher(None)  # type: ignore[arg-type]
    assert [one.region for one in launcher.quotes(Resources())] == ["aws/d", "aws/b"]
    offers[:] = [offer(3, "gcp/a"), offer(101, "aws/c")]
    with pytest.raises(LaunchError, match=r"MAX_USD_PER_HOUR.*gcp/a is not in NIGHTSHIFT_SKY"):
        launcher.quotes(Resources())
    settings.cache_clear()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("NoCloudAccessError", "no cloud enabled"),
        ("ResourcesUnavailableError", "not to be had"),
        ("InvalidCloudCredentials", "credentials"),
        ("UserRequestRejectedByPolicy", "admin policy"),
        ("SomethingElse", "SkyPilot: SomethingElse"),
    ],
)
def test_what_skypilot_raises_is_told_in_one_clear_line(name: str, says: str) -> None:
    explained = api.explain(type(name, (Exception,), {})("quota\n   of zero"))
    assert says in explained.message and "quota of zero" in explained.message + "quota of zero"
    assert isinstance(explained, NoCapacity) == (name == "ResourcesUnavailableError")


def test_a_catalogue_that_cannot_be_fetched_is_told_whatever_stands_between() -> None:
    for kind in (requests.ConnectionError, requests.exceptions.ProxyError, requests.ReadTimeout):
        explained = api.explain(kind("no way to /skypilot-catalog/master/vms.csv"))
        assert "catalogue cannot be fetched" in explained.message, kind
    assert "catalogue" not in api.explain(requests.ConnectionError("reset by peer")).message


def test_lists_in_settings_are_divided_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_ALLOWED_NETWORKS", "10.0.0.0/8, 192.168.1.0/24")
    assert Settings().allowed_networks == ["10.0.0.0/8", "192.168.1.0/24"]
    monkeypatch.setenv("NIGHTSHIFT_ALLOWED_NETWORKS", "10.0.0.0/8,everywhere")
    with pytest.raises(ValueError, match="everywhere"):
        Settings()


def test_a_killed_child_that_nobody_waited_for_is_dead() -> None:
    child = subprocess.Popen(["sleep", "60"])
    assert api._lives(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still a zombie
    assert not api._lives(child.pid)
    child.wait()
    assert not api._lives(child.pid)


def test_a_provider_is_asked_only_where_the_node_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """By our clock: that of the node may be wrong."""
    settings.cache_clear()
    clock = [100.0]
    monkeypatch.setattr(presence, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    machines = presence.Presence(None)  # type: ignore[arg-type]

    def hears(minute: int, state: str = "running") -> bool:
        seen = datetime(2050, 1, 1, 0, minute, tzinfo=UTC)
        return machines.hears("ns-1", JobStatus(state=state, started=None, seen=seen))  # type: ignore[arg-type]

    assert not machines.hears("ns-1", None)
    assert not hears(0), "what it said before may be old"
    assert hears(1)
    clock[0] += 14
    assert hears(1)
    clock[0] += 2
    assert not hears(1)
    assert hears(2) and hears(2, "failed")
