"""Benchmarks: did anything get slower, or better, told with intervals and by raw samples.

    nightshift run benchmarks --suite control-plane
    nightshift run benchmarks --suite all --against last --fail-on-regression

Each suite is a job on this machine. Its figures are measured in rounds, each beside what it is held
to and, with --against, beside another revision of the project in a git worktree.
"""

from tasks.benchmarks import steps
from tasks.benchmarks.parameters import BenchmarkParameters
from tasks.runs.capability import Capability
from tasks.runs.notice import Notice

capability = Capability("benchmarks", steps=steps.STEPS)


@capability.flow
def benchmarks(parameters: BenchmarkParameters) -> Notice:
    """Measure the suites, and tell whether anything got slower."""
    revisions = steps.find_revisions(parameters)
    with capability.begin(parameters, revisions.model_dump(exclude_none=True)) as work:
        steps.require_room(work)
        rows = steps.measure_suites(work, revisions)
        champions = steps.read_champions(work)
        notice = steps.publish(work, revisions, rows, champions)
    steps.end(parameters, rows, notice)
    return notice
