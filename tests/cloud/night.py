"""A process that has one job done as a flow would, for tests that kill it.

python -m tests.cloud.night RUN SPEC
"""

import sys

from infra import database
from infra.contract import JobSpec
from infra.errors import NightshiftError
from infra.records.runs import Run
from tasks.runs import launch, offers, reconcile
from tasks.runs.purse import Purse
from tests.cloud.lab import launcher


def main() -> None:
    pool = database.pool()
    sky = launcher(pool)
    offers.launchers = lambda _target: {"sky": sky}
    run = Run(id=sys.argv[1], flow="test-flow", resumed=False)
    with reconcile.run_lock(run.id):
        result = launch.run_job(JobSpec.model_validate_json(sys.argv[2]), Purse(pool, run, "sky"))
    print(result.model_dump_json())


if __name__ == "__main__":
    try:
        main()
    except NightshiftError as error:
        sys.exit(f"{type(error).__name__}: {error}")
