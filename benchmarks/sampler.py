"""Takes samples of one figure, one for each line of standard input.

    python -m benchmarks.sampler SUITE          (which figures there are, as JSON)
    python -m benchmarks.sampler SUITE FIGURE

It is run in the tree that is measured, so that two revisions have a process each. Answers are JSON
lines on standard output; what the measured code prints goes to standard error.
"""

import contextlib
import json
import os
import sys
from statistics import median

from benchmarks import figures


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    suite, *names = sys.argv[1:]
    if not names:
        listed = [
            {name: value for name, value in vars(one).items() if name != "prepare"}
            for one in figures.of_suite(suite)
        ]
        answers.write(json.dumps(listed) + "\n")
        return
    prepare = contextlib.contextmanager(figures.find(suite, names[0]).prepare)
    with prepare() as take:
        answers.write(json.dumps({"ready": names[0]}) + "\n")
        for _ in sys.stdin:
            taken = take()
            raw = taken if isinstance(taken, list) else [taken]
            answers.write(json.dumps({"value": median(raw), "raw": raw}) + "\n")


if __name__ == "__main__":
    main()
