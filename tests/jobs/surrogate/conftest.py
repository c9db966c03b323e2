"""What the tests of the job environment `surrogate` share.

pytest --confcutdir=tests/jobs/surrogate tests/jobs/surrogate
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.objects import put
from jobs.runtime import Job

REPOSITORY = Path(__file__).resolve().parents[3]
IGNORED = (
    "ignore:DatetimeIndex.dayofyear is deprecated",  # pvlib against this pandas
    "ignore:.*treespec, LeafSpec.*:FutureWarning",  # torch's exporter against itself
)


def pytest_configure(config: pytest.Config) -> None:
    # torch's exporter writes a log of its own that takes longer to capture than to export
    logging.getLogger("torch.__trace").setLevel(logging.WARNING)
    for line in IGNORED:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data: the ASHRAE 140 cases and their weather")
    return folder


@pytest.fixture(scope="session")
def run_job(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Run a program here: run_job(program, model of its config, name, config, **inputs)."""

    def run(program: Any, model: Any, name: str, config: dict[str, Any], **inputs: Path) -> Any:
        folder = tmp_path_factory.mktemp("job")
        stored = (folder.parent / "objects").as_uri()
        spec = {
            "name": "surrogate.any",
            "environment": "surrogate",
            "config": config,
            "inputs": {
                key: put(path, f"{stored}/{folder.name}/{key}").uri for key, path in inputs.items()
            },
            "output": f"{stored}/{folder.name}/out",
            "max_hours": 1,
            "key": folder.name,
        }
        (folder / "spec.json").write_text(json.dumps(spec))
        job = Job(folder, model)
        return job, program(job)

    return run
