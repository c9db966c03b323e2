"""What a job may reach: the list that its sandbox is built from."""

from pathlib import Path

import pytest

from infra.compute import reach
from infra.settings import settings
from tests.helpers.launching import job


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that lies in a folder of the system, with its home folder and its user's inside."""
    home = tmp_path / "app" / "user" / "nightshift"
    (home / "jobs" / "one" / "attempts").mkdir(parents=True)
    monkeypatch.setattr(reach, "SYSTEM", (str(tmp_path),))
    monkeypatch.setenv("HOME", str(tmp_path / "app" / "user"))
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(home))
    for name in ("HF_HOME", "HF_HUB_CACHE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    return home


def seen(home: Path, python: Path = Path("/usr/bin/python3")) -> reach.Sees:
    given = f"{(home / 'objects' / 'given with space').as_uri()}"
    (home / "objects" / "given with space").mkdir(parents=True, exist_ok=True)
    (home / "tenants").mkdir(exist_ok=True)
    update = {"inputs": {"given": given}, "reads": [str(home / "tenants")]}
    spec = job(home).model_copy(update=update)
    return reach.reach(spec, home / "jobs" / "one", python, [])["sees"]


def test_what_is_private_is_empty_though_it_lies_in_a_folder_of_the_system(
    home: Path, tmp_path: Path
) -> None:
    sees = seen(home)
    assert sees[str(tmp_path)] == (str(tmp_path), False)
    for private in (home, home.parent):
        assert sees[str(private)] == (None, True)
    assert sees[str(home / "jobs" / "one")][1], "its own folder can be written"
    assert sees[str(home / "objects" / "run-1" / "step")][1], "and its output"
    assert not sees[str(home / "objects" / "given with space")][1]
    assert sees[str(home / "tenants")] == (str(home / "tenants"), False)
    for record in ("attempts", "log.txt", "lock", "launch.lock", "launch.json"):
        assert not sees[str(home / "jobs" / "one" / record)][1]


def test_caches_can_be_written_and_certificates_read(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seen(home)[str(home.parent / ".cache" / "huggingface")][1]
    monkeypatch.setenv("HF_HOME", str(tmp_path / "models"))
    (tmp_path / "ca.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("LD_LIBRARY_PATH", f":/:relative:{tmp_path}/absent")
    sees = seen(home)
    assert sees[str(tmp_path / "models")] == (str(tmp_path / "models"), True)
    assert sees[str(tmp_path / "ca.pem")] == (str(tmp_path / "ca.pem"), False)
    assert str(home.parent / ".cache" / "huggingface") not in sees
    assert not {"/", "relative", f"{tmp_path}/absent"} & set(sees)


def test_a_python_is_followed_over_all_its_links(home: Path, tmp_path: Path) -> None:
    """As uv has it: a version without its last number is a link to one with it."""
    pythons = tmp_path / "pythons"
    (pythons / "3.11.9" / "bin").mkdir(parents=True)
    (pythons / "3.11.9" / "lib").mkdir()
    (pythons / "3.11.9" / "bin" / "python3.11").touch()
    (pythons / "3.11").symlink_to("3.11.9")
    (home / "environment" / "bin").mkdir(parents=True)
    python = home / "environment" / "bin" / "python"
    python.symlink_to(pythons / "3.11" / "bin" / "python3.11")
    sees = seen(home, python)
    for place in (home / "environment", pythons / "3.11" / "lib", pythons / "3.11" / "bin"):
        assert sees[str(place)] == (str(place), False)
