"""A broker that goes away and a bridge that is killed, in turn, while sensors publish: every
message is stored, and stored once."""

import random
import time
from pathlib import Path

from infra.database import Pool
from tests.helpers.bridges import (
    batch,
    bridging,
    events,
    loads,
    observed,
    wait_until,
)
from tests.helpers.brokers import open_broker


def test_outages_of_the_broker_and_kills_of_the_bridge_lose_nothing(
    database: Pool, tmp_path: Path, kills: int
) -> None:
    chance = random.Random(kills)
    with open_broker(tmp_path) as broker, bridging(tmp_path, broker.url) as running:
        for kill in range(kills):
            first = 20 * kill
            broker.publish(*batch(range(first, first + 10)))
            if kill % 2:
                running.kill()
                broker.publish(*batch(range(first + 10, first + 20)))
                running.start()
            else:
                broker.stop()
                time.sleep(2 * chance.random())
                broker.start()
                broker.publish(*batch(range(first + 10, first + 20)))
        wait_until(lambda: len(events(database)) == 20 * kills, running)
    assert sorted(observed(database)) == loads(range(20 * kills))
    assert sorted(events(database)) == list(range(20 * kills))
