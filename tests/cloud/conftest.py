"""The cluster's tests: about ten machines are rented in all, and most prove several things.

What is random, long or lost again and again is in tests/storm.
"""

import warnings

import pytest

from tests.cloud.fixtures import environment, pool, purse, sky, slurm, store

__all__ = ["environment", "pool", "purse", "sky", "slurm", "store"]


def pytest_configure(config: pytest.Config) -> None:
    """SkyPilot and what it imports use much that is deprecated, and leave processes to themselves.

    What is found at the very end falls under the filter of the process, no longer under pytest's.
    """
    warnings.simplefilter("ignore")
    config.addinivalue_line("filterwarnings", "ignore")
