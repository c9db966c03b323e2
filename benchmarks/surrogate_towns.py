"""The surrogate in real towns: its error, coverage and half-width in weather that it never saw.

    PYTHONPATH=. PYTHON -m benchmarks.surrogate_towns --model FOLDER --towns FOLDER

PYTHON is that of the job environment (`python -m infra.compute.environments surrogate`); the second
folder holds EPW files. Fresh designs are simulated in each town.
"""

import argparse
import json
from pathlib import Path

from jobs.surrogate.data import recall
from jobs.surrogate.predict import Surrogate
from jobs.surrogate.towns import judge_towns
from jobs.surrogate.towns_table import towns_table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--towns", type=Path, required=True)
    parser.add_argument("--designs", type=int, default=192, help="In each town.")
    arguments = parser.parse_args()
    sides = {"candidate": Surrogate(arguments.model)}
    rows = judge_towns(arguments.towns, sides, arguments.designs, recall(arguments.model))
    print(towns_table(rows))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
