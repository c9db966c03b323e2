"""What `make test` tries with some generated cases, tried with very many."""

import pytest

from infra.database import Pool
from tests.helpers.doors import Door
from tests.integration.deployments.test_gateway_schema import ask, door
from tests.integration.ledger.test_ledger_model import try_histories

__all__ = ["door"]


@pytest.mark.timeout(1800)
def test_ten_thousand_requests_to_the_gateway(door: tuple[Door, str, str]) -> None:
    ask(*door, cases=10_000)


@pytest.mark.timeout(1800)
def test_a_thousand_histories_of_the_ledger(database: Pool) -> None:
    try_histories(database, 1000)
