"""Federations as their owner keeps them: invites, who is let in, and what is refused before."""

import json
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.errors import InputError
from infra.settings import settings
from jobs.federated.door import Refused, Tenant
from jobs.federated.invitation import Invite
from jobs.federated.keys import Authority, ends_at, make_node_key
from tasks.federated import federations
from tasks.federated.federations import CA_KEY, Federation
from tasks.federated.inputs import prepare_inputs
from tasks.federated.parameters import FederatedParameters


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    return tmp_path / "home"


@pytest.fixture
def clinics() -> Federation:
    return federations.create("clinics", free_address())


@pytest.fixture
def key(tmp_path: Path) -> Callable[[], str]:
    return lambda: make_node_key(tmp_path / "key").decode()


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def token(text: str) -> str:
    return Invite.of(text).token.get_secret_value()


def parameters(**told: object) -> FederatedParameters:
    return FederatedParameters.model_validate({"federation": "clinics", **told})


def test_an_invite_lets_one_key_in_for_ever(clinics: Federation, key: Callable[[], str]) -> None:
    given, ours = token(federations.invite("clinics", "north")), key()
    assert clinics.door.admit("north", given, ours).is_in
    assert clinics.door.admit("north", given, ours).is_in
    with pytest.raises(Refused, match="used before, with another key"):
        clinics.door.admit("north", given, key())


def test_a_second_tenant_cannot_have_the_key_of_the_first(
    clinics: Federation, key: Callable[[], str]
) -> None:
    ours = key()
    clinics.door.admit("north", token(federations.invite("clinics", "north")), ours)
    with pytest.raises(Refused, match="another tenant has this key"):
        clinics.door.admit("east", token(federations.invite("clinics", "east")), ours)


@pytest.mark.parametrize("wrong", ["", "no key", "-----BEGIN PUBLIC KEY-----"])
def test_what_is_no_key_of_a_node_is_refused(clinics: Federation, wrong: str) -> None:
    given = token(federations.invite("clinics", "north"))
    with pytest.raises(Refused, match="none of a node"):
        clinics.door.admit("north", given, wrong)


def test_a_foreign_a_replaced_and_an_expired_invite_are_refused(
    clinics: Federation, key: Callable[[], str]
) -> None:
    other = federations.create("others", free_address())
    foreign = token(federations.invite(other.name, "north"))
    old, new = (token(federations.invite("clinics", "north")) for _ in range(2))
    for given in (foreign, old):
        with pytest.raises(Refused, match="does not know this invite, or has replaced it"):
            clinics.door.admit("north", given, key())
    with pytest.raises(Refused, match="does not know"):
        clinics.door.admit("../../ca", new, key())
    expire(clinics, "north")
    with pytest.raises(Refused, match="expired on"):
        clinics.door.admit("north", new, key())
    assert federations.status("clinics")["tenants"][0]["state"] == "invite expired"


def expire(federation: Federation, name: str) -> None:
    tenant = federation.tenant(name)
    assert isinstance(tenant, Tenant)
    past = datetime.now(UTC) - timedelta(hours=1)
    federation.door.keep(tenant.model_copy(update={"expires": past}))


def test_who_is_removed_comes_back_by_a_new_invite_only(
    clinics: Federation, key: Callable[[], str]
) -> None:
    ours, given = key(), token(federations.invite("clinics", "north"))
    clinics.door.admit("north", given, ours)
    with pytest.raises(InputError, match="has joined already"):
        federations.invite("clinics", "north")
    federations.remove("clinics", "north")
    with pytest.raises(Refused, match="was removed"):
        clinics.door.admit("north", given, ours)
    again = token(federations.invite("clinics", "north"))
    with pytest.raises(Refused, match="does not know"):
        clinics.door.admit("north", given, ours)
    assert clinics.door.admit("north", again, key()).is_in


def test_no_token_is_stored(clinics: Federation, home: Path) -> None:
    given = token(federations.invite("clinics", "north")).encode()
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) > 5 and not [path for path in files if given in path.read_bytes()]
    assert not [path for path in files if path.stat().st_mode & 0o077]


@pytest.mark.parametrize("name", ["../north", "a/b", "/etc", ".hidden", "", "n" * 65, "a\nb"])
def test_a_name_is_never_a_path(clinics: Federation, name: str) -> None:
    for step in (
        lambda: federations.create(name, free_address()),
        lambda: federations.invite("clinics", name),
        lambda: federations.remove("clinics", name),
    ):
        with pytest.raises(InputError, match="is no name"):
            step()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("9443", "is not HOST:PORT"),
        ("127.0.0.1:0", "is not HOST:PORT"),
        ("127.0.0.1:99999", "is not HOST:PORT"),
        ("0.0.0.0:9443", "no tenant can reach"),
        ("192.0.2.7:9443", "is no address of this machine"),
        ("nowhere.invalid:9443", "is no address of this machine"),
    ],
)
def test_an_address_that_cannot_be_is_refused(address: str, reason: str, home: Path) -> None:
    with pytest.raises(InputError, match=reason) as error:
        federations.create("clinics", address)
    assert error.value.message.startswith("--address") and not (home / "federations").exists()


def test_a_port_in_use_and_a_name_or_address_taken_are_refused(clinics: Federation) -> None:
    with pytest.raises(InputError, match="there is a federation"):
        federations.create("clinics", free_address())
    with pytest.raises(InputError, match="'clinics' has"):
        federations.create("others", clinics.address)
    with (
        socket.create_server(("127.0.0.1", 0)) as busy,
        pytest.raises(InputError, match="is in use"),
    ):
        federations.create("others", f"127.0.0.1:{busy.getsockname()[1]}")


@pytest.mark.parametrize("text", ["", "nsi_", "nsi_!!!", "nsi_e30", "hello", "\x00", "n" * 5000])
def test_an_invite_that_is_not_whole_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "data.csv").touch()
    with pytest.raises(InputError, match="no whole invite"):
        federations.settle_in(text, tmp_path)


def test_an_invite_lies_in_a_file_and_names_no_place(clinics: Federation, tmp_path: Path) -> None:
    text = federations.invite("clinics", "north")
    (tmp_path / "north.invite").write_text(text + "\n")
    with pytest.raises(InputError, match=r"--data: there is no .*data.csv"):
        federations.settle_in(text, tmp_path)
    (tmp_path / "data.csv").touch()
    told = federations.settle_in(str(tmp_path / "north.invite"), tmp_path)
    assert told == federations.settle_in(text, tmp_path)
    place, data = (Path(each) for each in told)
    assert place.parent.name == "joined" and data == tmp_path
    assert str(tmp_path) not in (place / "invite.json").read_text()


def test_an_old_invite_is_refused_before_anybody_is_asked(
    clinics: Federation, tmp_path: Path
) -> None:
    (tmp_path / "data.csv").touch()
    given = Invite.of(federations.invite("clinics", "north"))
    past = datetime.now(UTC) - timedelta(hours=1)
    with pytest.raises(InputError, match="it expired on"):
        federations.settle_in(given.model_copy(update={"expires": past}).text(), tmp_path)


def test_a_certificate_that_ends_tomorrow_is_told_and_renewed(
    clinics: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    invite_two()
    folder, authority = clinics.door.folder, clinics.folder / CA_KEY
    assert federations.status("clinics")["warnings"] == []
    old = Authority.read(folder / "ca.pem", authority)
    old.issue(folder, ["127.0.0.1"], timedelta(days=1))
    assert "the next run renews it" in federations.status("clinics")["warnings"][0]
    prepare_inputs.fn(parameters(features="a,b"))
    assert "the next run renews it" in caplog.text
    assert ends_at(folder / "server.pem") > datetime.now(UTC) + timedelta(days=360)
    assert federations.status("clinics")["warnings"] == []


def test_an_authority_that_ends_tomorrow_is_warned_of_and_one_that_ended_refused(
    clinics: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    invite_two()
    short = Authority.make(timedelta(days=1))
    short.write_key(clinics.folder / CA_KEY)
    short.issue(clinics.door.folder, ["127.0.0.1"], timedelta(days=365))
    prepare_inputs.fn(parameters(features="a,b"))
    assert "create another federation" in caplog.text
    ended = Authority.make(timedelta(hours=-1))
    ended.issue(clinics.door.folder, ["127.0.0.1"], timedelta(days=1))
    with pytest.raises(InputError, match="authority has ended"):
        prepare_inputs.fn(parameters(features="a,b"))


def invite_two() -> None:
    for name in ("north", "east"):
        federations.invite("clinics", name)


def test_a_run_takes_those_who_are_in_or_may_come(
    clinics: Federation, key: Callable[[], str]
) -> None:
    for name in ("north", "east", "south", "west"):
        federations.invite("clinics", name)
    expire(clinics, "south")
    federations.remove("clinics", "west")
    given = prepare_inputs.fn(parameters(features="a,b"))
    assert given.names == ["east", "north"] and given.features == ["a", "b"]
    assert given.door == str(clinics.door.folder) and given.folder == ""


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"federation": "nobody"}, "--federation: there is no federation 'nobody'"),
        ({"federation": "../clinics"}, "--federation: there is no federation"),
        ({"rounds": {"minimum_tenants": 3}}, "has 2 tenants that were invited, 3 are needed"),
    ],
)
def test_what_a_run_cannot_do_is_refused(
    clinics: Federation, told: dict[str, object], named: str
) -> None:
    invite_two()
    with pytest.raises(InputError) as error:
        prepare_inputs.fn(parameters(**told))
    assert named in error.value.message and error.value.remedy


def test_without_a_network_no_tenant_could_come(
    clinics: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    invite_two()
    monkeypatch.setenv("NIGHTSHIFT_LOCAL_NETWORK", "off")
    settings.cache_clear()
    with pytest.raises(InputError, match="NIGHTSHIFT_LOCAL_NETWORK is off"):
        prepare_inputs.fn(parameters())


def test_the_records_name_no_path(clinics: Federation, home: Path) -> None:
    federations.invite("clinics", "north")
    told = json.loads((clinics.folder / "federation.json").read_text())
    assert told == {"name": "clinics", "address": clinics.address}


def test_who_joins_for_adapters_has_texts_and_a_model(clinics: Federation, tmp_path: Path) -> None:
    text, data = federations.invite("clinics", "north"), tmp_path / "data"
    data.mkdir()
    with pytest.raises(InputError, match=r"--data: there is no .*texts.jsonl"):
        federations.settle_in(text, data, "some/model")
    (data / "texts.jsonl").write_text("")
    place, folder, model = federations.settle_in(text, data, "some/model")
    assert (Path(place) / "invite.json").is_file() and Path(folder) == data.resolve()
    assert model == "some/model"
    with pytest.raises(InputError, match="--model: there is no folder"):
        federations.settle_in(text, data, "./nowhere")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "config.json").write_text("{}")
    told = federations.settle_in(text, data, str(tmp_path / "copy"))
    assert told[2] == str((tmp_path / "copy").resolve())
    with pytest.raises(InputError, match=r"--data: there is no .*data.csv"):
        federations.settle_in(text, data)


def test_a_federation_of_adapters_asks_for_the_model_only(
    clinics: Federation, tmp_path: Path
) -> None:
    for name in ("north", "east"):
        federations.invite("clinics", name)
    found = prepare_inputs.fn(parameters(model="some/model"))
    assert found.names == ["east", "north"] and found.door and found.language is not None
    assert found.language.base is None and found.features == []
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    found = prepare_inputs.fn(parameters(model=str(tmp_path / "base")))
    assert found.language is not None and found.language.base is not None
    assert found.checksums == {"base": found.language.base.sha256}
