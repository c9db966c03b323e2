"""What the tests of the job environment `surrogate` share.

pytest --confcutdir=tests/surrogate tests/surrogate
"""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
IGNORED = ("ignore:DatetimeIndex.dayofyear is deprecated",)  # pvlib against this pandas


def pytest_configure(config: pytest.Config) -> None:
    for line in IGNORED:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data: the ASHRAE 140 cases and their weather")
    return folder
