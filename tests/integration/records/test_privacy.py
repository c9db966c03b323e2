"""What tenants' privacy was spent on, against the real PostgreSQL: by run, once, of either unit."""

import psycopg
import pytest

from infra import database as db
from infra.records import privacy, runs
from jobs.federated.config import Spent

MEANS = Spent(noise_multiplier=4, rounds=10).model_dump()
STEPS = Spent(
    noise_multiplier=2, rounds=3, unit="record", sampling_rate=0.25, steps=30
).model_dump()


def test_nights_of_both_units_are_told_apart_and_come_back_whole(database: db.Pool) -> None:
    first, second, now = (
        runs.begin(database, "federated-rounds", {"night": night}).id for night in range(3)
    )
    privacy.reserve(database, first, "ours", ["north", "west"], MEANS)
    privacy.reserve(database, second, "other", ["north"], STEPS)
    privacy.reserve(database, second, "other", ["north"], STEPS | {"rounds": 99})
    found = privacy.spent_before(database, now, ["north", "west", "east"])
    assert found == {"north": [STEPS, MEANS], "west": [MEANS], "east": []}
    assert privacy.spent_before(database, second, ["north"]) == {"north": [MEANS]}
    privacy.settle(database, second, "north", 1)
    privacy.settle(database, second, "north", 0)
    privacy.settle(database, first, "west", 99)
    found = privacy.spent_before(database, now, ["north", "west"])
    assert found == {"north": [STEPS | {"rounds": 1}, MEANS], "west": [MEANS]}
    assert Spent.model_validate(found["north"][0]).steps == 30


@pytest.mark.parametrize(
    "wrong", [{"unit": "column"}, {"sampling_rate": 0}, {"sampling_rate": 1.5}, {"steps": 0}]
)
def test_what_cannot_be_is_refused_by_the_database(
    database: db.Pool, wrong: dict[str, object]
) -> None:
    run = runs.begin(database, "federated-rounds", {}).id
    with pytest.raises(psycopg.errors.CheckViolation):
        privacy.reserve(database, run, "ours", ["north"], STEPS | wrong)
