"""What a job is said to have used. There is no GPU here: a program stands in for nvidia-smi."""

from pathlib import Path

import pytest

from infra.contract import Usage
from jobs.usage import Meter

SAID = "#!/bin/sh\necho \"$@\" > {asked}\nprintf '80, 10240\\n40, 20480\\n'\n"


def used() -> Usage:
    """What a meter says after one look."""
    meter = Meter()
    meter.look()
    return meter.read()


def test_memory_and_cores_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = used()
    assert 0.01 < found.memory_gb < 100 and found.cores > 0
    assert (found.gpu_busy, found.gpu_memory_gb) == (0, 0)


def test_gpus_are_those_of_the_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program, asked = tmp_path / "nvidia-smi", tmp_path / "asked"
    program.write_text(SAID.format(asked=asked))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    found = used()
    assert found.gpu_busy == pytest.approx(0.6) and found.gpu_memory_gb == 30
    assert "--id 2,5" in asked.read_text()


def test_a_driver_that_does_not_answer_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert used().gpu_memory_gb == 0
