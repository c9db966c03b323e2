"""Storms: kills, outages and losses again and again, for as long as it takes.

    make storm KILLS=100 ONLY=slurm        (pytest tests/storm --kills 100 -k slurm)

Each storm that began leaves a line in docs/storms.md, however it ended. `make test` has one named
kill for each kind of process; what comes about once in a hundred kills is found here.
"""

import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tasks.runs.states import RENEWALS
from tests.cloud.fixtures import pool, purse, sky, slurm, store
from tests.cloud.lab import STORM_HOURS
from tests.storm.record import RECORD, StormLog, write_down

__all__ = ["pool", "purse", "sky", "slurm", "store"]

STRIKE_SECONDS = 300
"""How long a strike on the cluster takes at most, with the pause before it."""
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
    """Written down when the test and its fixtures have ended, well or not.

    What it is told is shown at once, and stands in the report of a failure besides.
    """
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def tell(line: str) -> None:
        print(line)
        with capture.global_and_fixture_disabled():
            print(line, flush=True)

    request.node.stash[LOG] = StormLog(tell)
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
    """Time for every kill; and SkyPilot and what it imports use much that is deprecated.

    On the cluster each kill may cost a job the hours of a reservation, and the last job has its
    renewals. The making of the cluster is not counted.
    """
    kills = config.getoption("kills", 20)
    on_cluster = (kills + 1 + RENEWALS) * STORM_HOURS * 3600 + kills * STRIKE_SECONDS
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        if "slurm" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            item.add_marker(pytest.mark.timeout(on_cluster, func_only=True))
        elif item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900 + 120 * kills))
