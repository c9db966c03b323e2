"""Mean, interval and flags for designs, from an exported surrogate.

    python -m jobs.surrogate.predict --model FOLDER --input designs.csv > answers.csv
    ... | python -m jobs.surrogate.predict --model FOLDER --stdin

`--weather town.epw` fills in the columns of the weather. JSON lines in give JSON lines out.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from infra.errors import InputError, NightshiftError
from jobs.surrogate import export
from jobs.surrogate.climate import describe_weather
from jobs.surrogate.climates import ALL, MOST_WIDENED, Climates
from jobs.surrogate.config import LOADS, NEVER_NEGATIVE, OUTPUTS
from jobs.surrogate.designs import check_designs, northern, out_of_range, read_lines, read_table
from jobs.thermal.weather import read_epw

BALANCE = 0.01
"""Of the energy turned over: more is a violation."""
LARGEST_DIFFERENCE = 10.0
"""K between the yearly means of two rooms that share a wall; the training data stays below."""
HOURS = 8760


class Surrogate:
    """An exported surrogate, ready to predict."""

    def __init__(self, folder: Path, providers: list[str] | None = None) -> None:
        try:
            facts = json.loads((folder / "surrogate.json").read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder} holds no surrogate: {error}", "Name a folder with surrogate.json."
            ) from error
        self.inputs: list[str] = facts["inputs"]
        self.ranges: dict[str, list[Any]] = facts["ranges"]
        self.confidence = float(facts["confidence"])
        self.model = export.session(folder / f"{facts['chosen']}.onnx", providers)
        climates = Climates.load(folder)
        self.climates = climates and climates.single()

    def __call__(self, numbers: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Mean and half-width of the interval, each (B, len(OUTPUTS)), of checked designs."""
        return self._answer(numbers)[:2]

    def flagged(self, numbers: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
        """As a call, and for each row what lies outside what was trained on: inputs by their names,
        and `weather` where its numbers are such as no training climate has together.

        Intervals are wider where the weather is told in part, or lies far from what was trained on.
        """
        mean, half_width, remoteness = self._answer(numbers)
        outside = out_of_range(numbers, self.ranges)
        for row in np.flatnonzero(remoteness > 1):
            outside[row].append("weather")
        return mean, half_width, outside

    def _answer(self, numbers: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and half-width, and how far the weathers lie from what was trained on, (B,)."""
        seen = northern(numbers)
        x = np.full((len(self.inputs), len(seen)), np.nan, np.float32)
        for place, name in enumerate(self.inputs):
            if name in seen:
                x[place] = seen[name]

        def batch(rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            designs = np.ascontiguousarray(x[:, rows])
            wider, remoteness = np.ones(1, np.float32), np.zeros(designs.shape[1], np.float32)
            if self.climates is not None:  # else of an earlier release, which knows its inputs only
                _, filled, remoteness = self.climates.tell(designs[-len(ALL) :])
                wider = np.clip(remoteness, 1, MOST_WIDENED)
                wider[filled] *= self.climates.widened
            mean, half_width = map(np.asarray, self.model.run(None, {"designs": designs}))
            return mean, half_width * wider, remoteness

        parts = zip(*export.in_batches(batch, len(seen)), strict=True)
        mean, half_width, remoteness = (np.concatenate(part, axis=-1) for part in parts)
        return mean.T, half_width.T, remoteness


def deviation(half_width: np.ndarray, confidence: float) -> np.ndarray:
    """Standard deviations of normal errors whose intervals of `confidence` have that half-width."""
    return half_width / norm.ppf(0.5 + confidence / 2)


def energy(
    mean: np.ndarray, half_width: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Heating and cooling of the whole floor in kWh/m2 a year, and its standard deviation, (B,).

    The errors of the loads of one design go together (they share its climate), so their deviations
    add up.
    """
    doubt = deviation(half_width[:, :LOADS], confidence)
    return mean[:, :LOADS].sum(1) / 2, doubt.sum(1) / 2


def violations(numbers: pd.DataFrame, mean: np.ndarray) -> list[list[str]]:
    """For each row the physical conditions that a prediction breaks, by name.

    `balance`: heating + sun + gains differ from cooling + loss by more than 1 % of the energy
    turned over; `bounds`: a negative load, or a heated room below or above its setpoints by more
    than 1 K; `zones`: the two rooms further apart than a shared wall allows.
    """
    y = {name: mean[:, i] for i, name in enumerate(OUTPUTS)}
    gained = (y["heating_front"] + y["heating_back"]) / 2 + y["solar"]
    gained = gained + numbers["gains"].to_numpy() * HOURS / 1000
    lost = (y["cooling_front"] + y["cooling_back"]) / 2 + y["loss"]
    air = np.stack([y["temperature_front"], y["temperature_back"]], 1)
    coldest = (numbers["heating_setpoint"] - numbers["setback"]).to_numpy()[:, None]
    warmest = numbers["cooling_setpoint"].to_numpy()[:, None]
    broken = {
        "balance": np.abs(gained - lost) > BALANCE * np.maximum(np.abs(gained) + np.abs(lost), 1),
        "bounds": (mean[:, NEVER_NEGATIVE] < 0).any(1)
        | (air < coldest - 1).any(1)
        | (air > warmest + 1).any(1),
        "zones": np.abs(air[:, 0] - air[:, 1]) > LARGEST_DIFFERENCE,
    }
    return [[name for name, bad in broken.items() if bad[row]] for row in range(len(mean))]


def answer(surrogate: Surrogate, table: pd.DataFrame, name: str) -> pd.DataFrame:
    """For each design the mean, `_low` and `_high` of every target, and the flags.

    `outside`: inputs beyond the training range, or weather unlike it; `broken`: physical
    conditions not kept.
    """
    numbers = check_designs(table, name)
    mean, half_width, outside = surrogate.flagged(numbers)
    columns: dict[str, Any] = {}
    for i, output in enumerate(OUTPUTS):
        columns[output] = mean[:, i]
        low = mean[:, i] - half_width[:, i]
        columns[f"{output}_low"] = np.maximum(low, 0) if i in NEVER_NEGATIVE else low
        columns[f"{output}_high"] = mean[:, i] + half_width[:, i]
    columns["outside"] = [" ".join(names) for names in outside]
    columns["broken"] = [" ".join(names) for names in violations(numbers, mean)]
    return pd.DataFrame(columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--input", type=Path, help="CSV, Parquet or JSON lines.")
    given.add_argument("--stdin", action="store_true", help="JSON lines from standard input.")
    parser.add_argument("--weather", type=Path, help="EPW file for the columns of the weather.")
    parser.add_argument("--json", action="store_true", help="JSON lines for a table, too.")
    arguments = parser.parse_args()
    try:
        lines = arguments.json or arguments.stdin or arguments.input.suffix in (".jsonl", ".ndjson")
        if arguments.stdin:
            table = read_lines(sys.stdin.read(), "standard input")
        else:
            table = read_table(arguments.input)
        if arguments.weather:
            table = table.assign(**describe_weather(read_epw(arguments.weather)))
        name = "standard input" if arguments.stdin else arguments.input.name
        answers = answer(Surrogate(arguments.model), table, name)
    except NightshiftError as error:
        sys.stderr.write(f"✗ {error}\n")
        sys.exit(error.exit_code)
    if lines:
        answers.to_json(sys.stdout, orient="records", lines=True)
    else:
        answers.to_csv(sys.stdout, index=False)


if __name__ == "__main__":
    main()
