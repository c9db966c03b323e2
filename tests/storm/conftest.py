"""Storms: kills, outages and losses again and again, for as long as it takes.

    make storm KILLS=100 ONLY=slurm        (pytest tests/storm --kills 100 -k slurm)

Each storm that began leaves a line in docs/storms.md, however it ended. `make test` has one named
kill for each kind of process; what comes about once in a hundred kills is found here.
"""

import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.cloud.fixtures import pool, purse, sky, slurm, store
from tests.storm.record import RECORD, StormLog, write_down

__all__ = ["pool", "purse", "sky", "slurm", "store"]

LOG = pytest.StashKey[StormLog]()
PROBLEM = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=20, help="how many kills a storm has (20)")
    parser.addoption("--record", type=Path, default=RECORD, help="where the lines are written")


@pytest.fixture
def kills(request: pytest.FixtureRequest, storm_log: StormLog) -> int:
    """How many kills there are to be."""
    storm_log.kills = request.config.getoption("kills", 20)
    return storm_log.kills


@pytest.fixture(autouse=True)
def storm_log(request: pytest.FixtureRequest) -> StormLog:
    """Written down when the test and its fixtures have ended, well or not."""
    request.node.stash[LOG] = StormLog()
    return request.node.stash[LOG]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, object]:
    report = yield
    if not report.passed:
        crash = getattr(report.longrepr, "reprcrash", None)
        why = " ".join(str(crash.message if crash else report.longrepr).split())[:100]
        item.stash.setdefault(PROBLEM, f"{report.outcome}: {why}")
    if report.when == "teardown" and LOG in item.stash:
        record = item.config.getoption("record", RECORD)
        result = item.stash.get(PROBLEM, "passed")
        write_down(item.nodeid, item.stash[LOG], result, record)
    return report


@pytest.fixture(scope="session")
def environment(train_python: Path) -> Iterator[pytest.MonkeyPatch]:
    """As for the cluster's tests; its whole nights need an environment that is made before."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def pytest_configure(config: pytest.Config) -> None:
    """What SkyPilot leaves to itself at the very end is not told (tests/cloud/conftest.py)."""
    warnings.simplefilter("ignore")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Time for every kill; and SkyPilot and what it imports use much that is deprecated."""
    seconds = 900 + 120 * config.getoption("kills", 20)
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(seconds))
        if "slurm" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.filterwarnings("ignore"))
