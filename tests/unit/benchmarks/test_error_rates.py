"""The error rates are those of the numbers that they are made of."""

import numpy as np

from benchmarks.error_rates import rates


def pairs(rounds, noise, gain=1.0):
    draw = np.random.default_rng(0)
    return np.exp(noise * draw.standard_normal((rounds, 2))) * [gain, 1]


def test_quiet_samples_of_the_same_code_give_no_alarm_and_find_what_is_planted(monkeypatch):
    monkeypatch.setattr("benchmarks.error_rates.DRAWN", 40)
    told = rates(pairs(120, 0.02), 30, 0.05)
    assert told["blocks"] == "4" and told["false"] == "0" and told["drawn: false"] == "0.0%"
    assert told["found 10%"] == told["found 20%"] == "100.0%"


def test_what_is_not_the_same_is_an_alarm_in_its_blocks(monkeypatch):
    monkeypatch.setattr("benchmarks.error_rates.DRAWN", 10)
    assert rates(pairs(120, 0.02, gain=1.3), 30, 0.05)["false"] == "4"
