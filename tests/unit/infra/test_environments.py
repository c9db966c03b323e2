"""Job environments, made for real from a folder of wheels: no index and no network is needed."""

import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest

from infra.compute import environments
from infra.compute.environments import ensure
from infra.compute.uv import ENVIRONMENTS, index_options
from infra.errors import EnvironmentBuildError, StorageFull
from infra.settings import REPOSITORY

NAMES = sorted(path.stem for path in ENVIRONMENTS.glob("*.in"))


@pytest.fixture
def files(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of requirement files; pip is configured for a folder with one small wheel."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    info = "gear-1.0.dist-info"
    with zipfile.ZipFile(wheels / "gear-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("gear.py", "teeth = 20\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: gear\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", f"gear.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "small.txt").write_text("gear==1.0\n")
    return folder


def teeth(python: Path) -> str:
    command = [python, "-c", "import gear; print(gear.teeth)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_it_is_made_once_and_byte_compiled(
    files: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = ensure("small", files)
    assert teeth(python) == "20"
    assert python.is_relative_to(home / "environments")
    assert list(python.parents[1].glob("lib/python*/site-packages/__pycache__/gear.*.pyc"))
    assert "making the job environment 'small'" in capsys.readouterr().err
    assert ensure("small", files) == python
    assert capsys.readouterr().err == "", "what is there is not made again"


def test_other_pins_are_another_environment(files: Path) -> None:
    first = ensure("small", files)
    (files / "small.txt").write_text("gear==1.0\n# changed\n")
    second = ensure("small", files)
    assert first != second
    assert first.exists(), "jobs that run in the old one go on"
    compiled = [next(one.parents[1].glob("lib/**/gear.*.pyc")) for one in (first, second)]
    assert compiled[0].samefile(compiled[1]), "the same file is compiled once"
    assert teeth(second) == "20"


@pytest.mark.parametrize("torn", ["COMPLETE", "bin/python"])
def test_a_torn_one_is_made_again(files: Path, torn: str) -> None:
    python = ensure("small", files)
    (module,) = python.parents[1].glob("lib/python*/site-packages/gear.py")
    module.unlink()
    (python.parents[1] / torn).unlink()
    assert teeth(ensure("small", files)) == "20"


def test_two_processes_make_it_once(files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # no forks: what other tests of this process have begun (threads of Prefect) would fail in them
    anew = multiprocessing.get_context("spawn")
    makers = [anew.Process(target=ensure, args=("small", files)) for _ in range(4)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
    assert [maker.exitcode for maker in makers] == [0] * 4
    said = capfd.readouterr().err
    assert said.count("making the job environment") == 1
    assert said.count("waiting for another process") <= 3
    assert teeth(ensure("small", files)) == "20"


def test_the_tests_packages_lie_on_top(files: Path) -> None:
    (files / "small-test.txt").write_text("")
    python = ensure("small-test", files)
    assert python != ensure("small", files) and teeth(python) == "20"
    assert not list(python.parents[1].rglob("gear.py")), "they are not installed twice"
    (files / "small.txt").write_text("gear==1.0\n# changed\n")
    assert ensure("small-test", files) != python


def test_who_waits_says_so(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    make = environments._make

    def slow(*arguments) -> None:
        begun.set()
        assert go_on.wait(30)
        make(*arguments)

    monkeypatch.setattr(environments, "_make", slow)
    makers = [threading.Thread(target=ensure, args=("small", files)) for _ in range(2)]
    makers[0].start()
    assert begun.wait(30)
    makers[1].start()
    said = ""
    deadline = time.monotonic() + 30
    while "waiting for another process that makes the environment 'small'" not in said:
        assert time.monotonic() < deadline
        said += capsys.readouterr().err
        time.sleep(0.01)
    go_on.set()
    for maker in makers:
        maker.join(60)
    assert teeth(ensure("small", files)) == "20"


def test_nobody_builds_where_the_uv_of_a_killed_process_still_writes(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its uv is a program that notes its arguments and goes on for a second."""
    noted = tmp_path / "noted"

    def second(folder: Path, *_: object) -> None:
        folder.mkdir()
        noted.write_text(noted.read_text() + "second\n")

    fake = tmp_path / "uv"
    fake.write_text(f"#!/bin/sh\necho begun >> {noted}\nsleep 1\necho ended >> {noted}\n")
    fake.chmod(0o755)
    monkeypatch.setattr("uv.find_uv_bin", lambda: str(fake))
    maker = multiprocessing.get_context("fork").Process(target=ensure, args=("small", files))
    maker.start()
    deadline = time.monotonic() + 30
    while not noted.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    maker.kill()
    maker.join()
    monkeypatch.setattr(environments, "_make", second)
    ensure("small", files)
    assert noted.read_text().split() == ["begun", "ended", "second"]


def test_a_pin_that_does_not_exist_says_what_to_do(files: Path) -> None:
    (files / "small.txt").write_text("gear==9.9\n")
    with pytest.raises(EnvironmentBuildError, match=r"gear==9\.9") as caught:
        ensure("small", files)
    assert "Correct small.txt" in caught.value.remedy
    assert "pip config list" in caught.value.remedy
    (files / "small.txt").write_text("gear==1.0\n")
    assert teeth(ensure("small", files)) == "20"


def test_an_unknown_environment_names_those_that_are_there(files: Path) -> None:
    with pytest.raises(EnvironmentBuildError, match="'larg'") as caught:
        ensure("larg", files)
    assert "small" in caught.value.remedy


def test_a_full_disk_is_named_as_such(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "uv"
    fake.write_text("#!/bin/sh\necho 'error: No space left on device (os error 28)' >&2\nexit 2\n")
    fake.chmod(0o755)
    monkeypatch.setattr("uv.find_uv_bin", lambda: str(fake))
    with pytest.raises(StorageFull, match="small") as caught:
        ensure("small", files)
    assert "NIGHTSHIFT_HOME" in caught.value.remedy


def test_what_pip_is_configured_for_is_handed_to_uv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://global.example/simple\ntrusted-host = mirror.example\n"
        "extra-index-url =\n    https://a.example/simple\n    https://b.example/simple\n"
        "[install]\nindex-url = https://install.example/simple\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels /more")
    options = index_options()
    given = {
        option: [value for name, value in pairwise(options) if name == option]
        for option in options
        if option.startswith("--")
    }
    assert given["--index-url"] == ["https://install.example/simple"]
    assert given["--extra-index-url"] == ["https://a.example/simple", "https://b.example/simple"]
    assert given["--find-links"] == ["/wheels", "/more"]
    assert given["--allow-insecure-host"] == ["mirror.example"]
    assert "--no-index" not in options
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable.example/simple")
    assert "https://variable.example/simple" in index_options()


@pytest.mark.parametrize("name", NAMES)
def test_every_pin_is_exact_and_nothing_of_the_host_is_in_the_file(name: str) -> None:
    lines = (ENVIRONMENTS / f"{name}.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert pins
    for line in pins:
        pin = line.removesuffix("\\").split(";")[0].strip()
        assert pin.count("==") == 1 and "+" not in pin and " " not in pin, line
    text = "\n".join(lines)
    for foreign in ("--index-url", "--extra-index-url", "--find-links", "://", "@ /"):
        assert foreign not in text


@pytest.mark.parametrize("name", NAMES)
def test_every_pin_but_torch_has_its_hashes(name: str) -> None:
    lines = (ENVIRONMENTS / f"{name}.txt").read_text().splitlines()
    bare = [
        line
        for line, following in pairwise(lines)
        if "==" in line and not following.lstrip().startswith("--hash=sha256:")
    ]
    assert all(line.startswith("torch==") for line in bare), bare


def test_another_file_than_the_pinned_one_is_refused(files: Path) -> None:
    (files / "small.txt").write_text(f"gear==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(EnvironmentBuildError, match="Hash mismatch"):
        ensure("small", files)


def test_uv_is_the_same_everywhere() -> None:
    pins = {
        re.search(r"^uv==\S+", (ENVIRONMENTS / name).read_text(), re.MULTILINE)[0]  # pyright: ignore
        for name in ("control.txt", "uv.txt")
    }
    assert len(pins) == 1


def test_the_watchdog_starts_light() -> None:
    """It needs only the standard library and psutil: there is one beside every job."""
    code = "import sys, infra.compute.watchdog; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert not {"pydantic", "prefect", "psycopg", "boto3"} & set(listed.stdout.split())
    assert "psutil" in listed.stdout.split()
