"""What is planted takes the time that it should, and is told as a run tells it."""

import runpy
import time

import numpy as np
import pytest

from benchmarks.planted import PLACES, Place, plant, tell
from infra.settings import REPOSITORY


@pytest.mark.parametrize("name", PLACES)
def test_every_place_is_in_the_code(name):
    place = PLACES[name]
    assert place.before in (REPOSITORY / place.file).read_text()


def test_the_work_is_repeated_until_so_much_cpu_time_has_passed(tmp_path):
    (tmp_path / "made_up.py").write_text("done = []\ndef step():\n    done.append(0)\n")
    place = Place("step", "made_up.py", "    done.append(0)\n", "done.append(1)")
    plant(tmp_path, place, 0.05)
    known = runpy.run_path(str(tmp_path / "made_up.py"))
    began = time.process_time()
    known["step"]()
    assert 0.05 <= time.process_time() - began < 0.2
    assert known["done"][-1] == 0 and sum(known["done"]) > 100


def test_a_planted_slowdown_is_found_and_the_same_code_is_not(monkeypatch):
    monkeypatch.setattr("benchmarks.planted.DRAWN", 40)
    noise = np.exp(0.03 * np.random.default_rng(0).standard_normal((60, 2)))
    slow = tell(noise * [1.2, 1], 0.2)
    assert slow["verdict"] == "slower" and slow["found"] == "100.0%"
    same = tell(noise, 0.0)
    assert same["verdict"] not in ("slower", "faster") and same["found"] == "0.0%"
