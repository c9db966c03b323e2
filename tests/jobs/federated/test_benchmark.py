"""Both apps that the benchmark compares do rounds of a real federation."""

import pytest

from benchmarks.federated import BARE, OURS, ready


@pytest.mark.parametrize("apps", [OURS, BARE])
def test_a_round_is_done_whenever_it_is_asked_for(apps: tuple[str, str]) -> None:
    with ready(apps, 2) as rounds:
        assert 0 < rounds.seconds() < 120
        assert rounds.cpu_seconds() > 0.05
