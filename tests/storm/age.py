"""Whether docs/storms.md is still news.

python -m tests.storm.age             warns where it is not
python -m tests.storm.age --strict    fails then, as a release does
"""

import subprocess
import sys
from pathlib import Path

from infra.settings import REPOSITORY
from tests.storm.record import RECORD

PATHS = ["infra", "tasks/runs"]
"""What storms are about. Where such a folder is not there, the one above it counts."""
COMMITS = 40
"""So many commits to these paths make the newest storm old."""


def newest(record: Path = RECORD) -> str:
    """When the newest storm passed, in UTC; '' if none has."""
    rows = [line.split(" | ") for line in record.read_text().splitlines()]
    return max((row[0].strip("| ") for row in rows if row[-1].startswith("passed")), default="")


def commits_since(when: str, repository: Path = REPOSITORY) -> int:
    """How many commits have touched PATHS since."""
    count = ["git", "rev-list", "--count", "HEAD"] + [f"--since={when} +0000"] * bool(when)
    there = [one if (repository / one).exists() else str(Path(one).parent) for one in PATHS]
    done = subprocess.run(
        [*count, "--", *there], cwd=repository, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def main() -> None:
    if not (REPOSITORY / ".git").exists():  # a copy without its history
        return
    when = newest()
    since = commits_since(when)
    if since > COMMITS:
        warning = f"docs/storms.md: {since} commits since the last storm passed ({when or 'never'})"
        print(f"warning: {warning}; `make storm` raises the next", file=sys.stderr)
        sys.exit("--strict" in sys.argv)


if __name__ == "__main__":
    main()
