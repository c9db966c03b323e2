"""What is planted takes the time that it should, and is told as a run tells it."""

import runpy
import time

import numpy as np
import pytest

from benchmarks.planted import PLACES, Place, blocks, copy, plant, tell
from infra.settings import REPOSITORY


@pytest.mark.parametrize("name", PLACES)
def test_every_place_is_in_the_code(name):
    place = PLACES[name]
    assert place.before in (REPOSITORY / place.file).read_text()


def test_a_copy_has_shorter_samples(tmp_path):
    copy(tmp_path, PLACES["batch"])
    assert "\nBATCH = 8192\n" in (tmp_path / "benchmarks/surrogate.py").read_text()


@pytest.mark.parametrize("name", PLACES)
def test_what_is_made_shorter_is_in_the_code(name):
    for file, usually, _ in PLACES[name].short:
        assert (REPOSITORY / file).read_text().count(usually) == 1


@pytest.mark.parametrize("clock", ["process_time", "perf_counter"])
def test_the_work_is_repeated_until_so_much_time_has_passed(tmp_path, clock):
    (tmp_path / "made_up.py").write_text("done = []\ndef step():\n    done.append(0)\n")
    place = Place(
        "search", "step", "made_up.py", "    done.append(0)\n", "done.append(1)", clock=clock
    )
    plant(tmp_path, place, 0.05)
    known = runpy.run_path(str(tmp_path / "made_up.py"))
    began = getattr(time, clock)()
    known["step"]()
    assert 0.05 <= getattr(time, clock)() - began < 1
    assert known["done"][-1] == 0 and sum(known["done"]) > 100


def test_a_planted_slowdown_is_found_and_the_same_code_is_not():
    noise = np.exp(0.03 * np.random.default_rng(0).standard_normal((1200, 2)))
    slow = tell(blocks(noise * [1.2, 1], 60), 0.2)
    assert (slow["runs"], slow["told"], slow["high"]) == (20, 20, 1)
    assert slow["low"] == pytest.approx(0.025 ** (1 / 20))  # Clopper and Pearson, all found
    assert slow["effect"] == pytest.approx(0.2, abs=0.01)
    same = tell(blocks(noise, 60), 0.0)
    assert (same["told"], same["low"]) == (0, 0)


def test_what_is_slower_is_not_found_where_the_sides_are_exchanged():
    noise = np.exp(0.03 * np.random.default_rng(0).standard_normal((60, 2)))
    assert tell([noise * [1, 1.2]], 0.1)["told"] == 0
    assert tell([noise * [1, 1.2]], 0.0)["told"] == 1
