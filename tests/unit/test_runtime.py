"""What every job program shares."""

import math

import pytest

from infra.errors import InputError
from jobs.runtime import require_finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_that_are_no_numbers_are_named(value: float) -> None:
    require_finite({"reward": 0.5})
    with pytest.raises(InputError, match="loss"):
        require_finite({"reward": 0.5, "loss": value})
