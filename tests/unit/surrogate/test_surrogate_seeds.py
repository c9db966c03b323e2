"""No two versions draw the same designs, whatever seeds they are given."""

from itertools import product

from tasks.surrogate.steps import simulation_seed


def test_each_seed_and_generation_has_designs_of_its_own() -> None:
    pairs = list(product(range(50), range(50)))
    assert len({simulation_seed(*pair) for pair in pairs}) == len(pairs)
    assert simulation_seed(1, 0) != simulation_seed(0, 1), "--seed 1 for v1, the default for v2"
