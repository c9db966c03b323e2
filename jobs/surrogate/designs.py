"""Designs: sampled, read from the user's files, checked, and built for the simulation."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import qmc

from infra.errors import InputError
from jobs.surrogate.climate import likely_degree_days, make_climate, place
from jobs.surrogate.config import (
    CLIMATE,
    DEGREE_DAYS,
    DESIGN,
    INPUTS,
    JOINT,
    REFERENCE,
    WEATHER,
    Quantity,
)
from jobs.thermal.building import DAY, SHELTERED, Building, Layer, Wall, Window, Zone
from jobs.thermal.physics import Loads
from jobs.thermal.weather import Weather

CONCRETE = (1.7, 2200.0, 900.0)
"""Conductivity W/mK, density kg/m3, specific heat J/kgK (EN ISO 10456)."""
INSULATION = (0.035, 25.0, 1400.0)
FILMS = {"wall": 0.17, "roof": 0.14, "floor": 0.21}
"""Surface resistances of both sides in m2K/W (EN ISO 6946)."""
PARTITION = (Layer(0.12, 0.5, 1400, 1000),)
FACTORS = {
    "window_front": {100: "per cent"},
    "window_back": {100: "per cent"},
    "mass": {1000: "millimetres", 100: "centimetres"},
    "overhang": {1000: "millimetres", 100: "centimetres"},
    "width": {1000: "millimetres", 100: "centimetres"},
    "depth": {1000: "millimetres", 100: "centimetres"},
    "height": {1000: "millimetres", 100: "centimetres"},
    "global_radiation": {1000: "Wh/m2", 3.6: "MJ/m2", 0.001: "MWh/m2"},
    **{
        f"{facing}_radiation": {1000: "Wh/m2", 3.6: "MJ/m2", 0.001: "MWh/m2"}
        for facing in ("north", "east", "south", "west")
    },
    "wall_u": {1000: "mW/m2K"},
    "diffuse_share": {100: "per cent"},
    "pressure": {1000: "Pa", 10: "hPa"},
}
"""Units that a column is taken for when its median is out of range by that factor."""
KELVIN_COLUMNS = ("heating_setpoint", "cooling_setpoint", "mean_temperature")
FAHRENHEIT_COLUMNS = ("heating_setpoint", "cooling_setpoint")
DEGREE_DAY_FACTORS = {24: "kelvin-hours", 1.8: "Fahrenheit-days"}
WORTH_COMPARING, COMPARED_WITHIN = 800.0, 1.15
"""Degree days from that many a year on are estimated from the swings within some per cent."""
COMPARED = 256
"""Rows, at most."""
ROUNDING = 1.0
"""K d, of sums that were rounded."""
MOST_GAINS = 100.0
"""W/m2 that no dwelling and no office has: more are taken for the watts of the whole house."""


def sample(quantities: Iterable[Quantity], count: int, seed: int) -> pd.DataFrame:
    """`count` rows by a scrambled Sobol sequence over the quantities' ranges."""
    chosen = tuple(quantities)
    # `rng=` would draw other designs than before; the stubs know only that name
    engine = qmc.Sobol(len(chosen), seed=seed)  # pyright: ignore[reportCallIssue]
    unit = engine.random_base2(int(np.ceil(np.log2(max(count, 2)))))[:count]
    low, high = np.array([q.low for q in chosen]), np.array([q.high for q in chosen])
    return pd.DataFrame(low + unit * (high - low), columns=[q.name for q in chosen])


def sample_climates(count: int, seed: int) -> list[Callable[[], Weather]]:
    """Made-up climates over config.CLIMATE, each made when it is called."""
    rows = sample(CLIMATE, count, seed).to_dict("records")
    return [
        partial(make_climate, **place(row), seed=seed * 100_003 + n) for n, row in enumerate(rows)
    ]


def build(design: Mapping[str, float]) -> Building:
    """Two rooms, one behind the other, with a brick wall between them; from config.DESIGN."""
    width, depth, height = design["width"], design["depth"], design["height"]
    night = np.arange(DAY) // 6
    heating = design["heating_setpoint"] - np.where(
        (night < 6) | (night >= 22), design["setback"], 0
    )
    common = {
        "size": (width, depth, height),
        "air_changes": design["infiltration"],
        "gains": design["gains"] * width * depth,
        "heating": tuple(heating),
        "cooling": design["cooling_setpoint"],
    }
    zones = []
    for front in (True, False):
        plane = "south" if front else "north"
        share = design["window_front" if front else "window_back"]
        edge = 0.0 if front else depth * 2
        side = np.sqrt(share)
        box = (
            width * (1 - side) / 2, edge, height * (1 - side) / 2,
            width * (1 + side) / 2, edge, height * (1 + side) / 2,
        )  # fmt: skip
        walls = [
            Wall(plane, width * height * (1 - share), _layers("wall", design)),
            Wall("east", depth * height, _layers("wall", design)),
            Wall("west", depth * height, _layers("wall", design)),
            Wall("roof", width * depth, _layers("roof", design)),
            Wall("floor", width * depth, _layers("floor", design), behind=SHELTERED),
        ]
        if front:
            walls.append(Wall("north", width * height, PARTITION, behind=1))
        origin = (0.0, 0.0 if front else depth, 0.0)
        zones.append(
            Zone(walls=tuple(walls), windows=(Window(plane, box),), origin=origin, **common)
        )
    shade = (0.0, -design["overhang"], height, width, 0.0, height)
    return Building(tuple(zones), (shade,), rotation=design["orientation"] - 180)


def _layers(kind: str, design: Mapping[str, float]) -> tuple[Layer, ...]:
    """Insulation outside concrete, together with the films of the wanted U-value."""
    inner = Layer(design["mass"], *CONCRETE)
    resistance = 1 / design[f"{kind}_u"] - FILMS[kind] - inner.resistance
    return Layer(max(resistance, 0.02) * INSULATION[0], *INSULATION), inner


def results(designs: pd.DataFrame, loads: Loads) -> pd.DataFrame:
    """The quantities of config.TARGETS of simulated designs; `loss` closes the balance."""
    floor = (designs["width"] * designs["depth"]).to_numpy()[:, None]
    heating, cooling = loads.annual_heating / floor, loads.annual_cooling / floor
    solar = loads.transmitted.sum(1) / floor[:, 0] / 2
    gains = designs["gains"].to_numpy() * loads.heating.shape[2] / 1000
    mean = loads.temperature.mean(2, dtype=float)
    return pd.DataFrame(
        {
            "heating_front": heating[:, 0],
            "heating_back": heating[:, 1],
            "cooling_front": cooling[:, 0],
            "cooling_back": cooling[:, 1],
            "temperature_front": mean[:, 0],
            "temperature_back": mean[:, 1],
            "solar": solar,
            "loss": heating.mean(1) + solar + gains - cooling.mean(1),
        },
        index=designs.index,
    )


def read_table(path: Path) -> pd.DataFrame:
    """A CSV, Parquet or JSON-lines file. Raises InputError for what is none of them."""
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix in (".jsonl", ".ndjson"):
            return read_lines(path.read_text(), path.name)
        table = pd.read_csv(path, encoding="utf-8-sig").rename(columns=str.strip)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        remedy = "Give CSV, Parquet or JSON lines with a header."
        raise InputError(f"{path.name} cannot be read: {error}", remedy) from error
    for divider in (";", "\t"):
        if len(table.columns) < 3 and divider in table.columns[0]:
            raise InputError(
                f"{path.name}: {divider!r} stands between its columns",
                "Write commas between columns, and points in numbers.",
            )
    return table


def read_lines(text: str, name: str) -> pd.DataFrame:
    """JSON lines. Raises InputError with the first line that holds no object."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows.append(dict(json.loads(line)) if line.strip() else None)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{name}, line {number} is no JSON object: {error}", "Give an object a line."
            ) from error
    return pd.DataFrame([row for row in rows if row is not None])


def check_designs(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The columns INPUTS as floats; all DEGREE_DAYS of a row that lacks any are estimated. What
    lacks of JOINT stays NaN: a model knows what is likely.

    Raises InputError that names the row (from 1) and column for what is missing, no number,
    negative, impossible or out of order, and the column for a unit that is wrong by a factor.
    """
    optional = [quantity.name for quantity in DEGREE_DAYS + JOINT]
    missing = [column for column in INPUTS if column not in table and column not in optional]
    if missing or not len(table):
        raise InputError(
            f"{name}: no column {', '.join(missing)}" if missing else f"{name} holds no row",
            f"One row a design, with the columns {', '.join(INPUTS)}; docs/surrogate.md says more.",
        )
    given = [column for column in INPUTS if column in table]
    numbers = table[given].apply(pd.to_numeric, errors="coerce").astype(float)
    untold = table[given].isna().to_numpy() & np.isin(given, optional)
    bad = ~np.isfinite(numbers.to_numpy()) & ~untold
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(
            f"{name}, row {row + 1}: {given[column]} is {table[given[column]].to_list()[row]!r},"
            " not a number",
            "Correct or leave out that row.",
        )
    _check_degree_days(numbers, name)
    numbers = complete(numbers)
    _check_units(numbers, name)
    for quantity in DESIGN + WEATHER:
        signed = quantity.low < 0 or quantity.name == "latitude"
        below = [] if signed else np.flatnonzero(numbers[quantity.name] < 0)
        if len(below):
            raise InputError(
                f"{name}, row {below[0] + 1}: {quantity.name} is "
                f"{numbers[quantity.name].iloc[below[0]]:g}, a negative {quantity.unit}",
                "Correct or leave out that row.",
            )
        strictly = quantity.name in ("width", "depth", "height", "wall_u", "roof_u", "floor_u")
        if strictly and (numbers[quantity.name] == 0).any():
            raise InputError(f"{name}: a {quantity.name} is 0", "Give it a size.")
        beyond = np.flatnonzero(numbers[quantity.name] > 1) if quantity.unit == "1" else []
        if len(beyond):
            raise InputError(
                f"{name}, row {beyond[0] + 1}: {quantity.name} is "
                f"{numbers[quantity.name].iloc[beyond[0]]:g}, more than all",
                "Give a share from 0 to 1.",
            )
    crossed = np.flatnonzero(numbers["heating_setpoint"] > numbers["cooling_setpoint"])
    if len(crossed):
        setpoints = numbers[["heating_setpoint", "cooling_setpoint"]].iloc[crossed[0]]
        raise InputError(
            f"{name}, row {crossed[0] + 1}: heating_setpoint is {setpoints.iloc[0]:g}, above "
            f"cooling_setpoint, {setpoints.iloc[1]:g}",
            "Give degrees Celsius, heating below cooling.",
        )
    return numbers


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """A table of numbers with all of INPUTS first: where one of the DEGREE_DAYS is not told, all
    are estimated, so that they fit each other; where one of JOINT is not, it is NaN."""
    others = [column for column in table if column not in INPUTS]
    names = [quantity.name for quantity in DEGREE_DAYS]
    optional = dict.fromkeys([*names, *(quantity.name for quantity in JOINT)], float)
    table = table.reindex(columns=[*INPUTS, *others]).astype(optional)
    unknown = table[names].isna().any(axis=1)
    if unknown.any():
        table.loc[unknown, names] = _likely(table[unknown])[names]
    return table


def _likely(table: pd.DataFrame) -> pd.DataFrame:
    """The DEGREE_DAYS that the swings of each row let expect."""
    swings = ("mean_temperature", "seasonal_swing", "daily_swing")
    known = (table[name].to_numpy(float) for name in swings)
    return pd.DataFrame(likely_degree_days(*known), index=table.index)


def _check_degree_days(numbers: pd.DataFrame, name: str) -> None:
    """Of those that are told: in order, and in kelvin-days."""
    told = [quantity.name for quantity in DEGREE_DAYS if quantity.name in numbers]
    if not told:
        return
    for lower, higher in combinations([c for c in told if c.startswith("heating")], 2):
        wrong = np.flatnonzero(numbers[lower] > numbers[higher] + ROUNDING)
        if len(wrong):
            values = numbers[[lower, higher]].iloc[wrong[0]]
            raise InputError(
                f"{name}, row {wrong[0] + 1}: {lower} is {values[lower]:g}, more than {higher}, "
                f"{values[higher]:g}",
                "Correct or leave out both: the lower the temperature, the fewer its degree days.",
            )
    some = numbers.iloc[:: 1 + len(numbers) // COMPARED]  # all would cost a server its speed
    likely = _likely(some)
    ratios = (some[told] / likely[told].where(likely[told] >= WORTH_COMPARING)).median()
    ratios = ratios.dropna()
    for factor, unit in DEGREE_DAY_FACTORS.items():
        if len(ratios) and (np.abs(np.log(ratios / factor)) < np.log(COMPARED_WITHIN)).all():
            raise InputError(
                f"{name}: {ratios.index[0]} looks like {unit} "
                f"(median {numbers[ratios.index[0]].median():g})",
                "Give kelvin-days (K d) of the whole year, or leave degree days out.",
            )


def northern(numbers: pd.DataFrame) -> pd.DataFrame:
    """Designs at negative latitudes as their mirror images north of the equator.

    There north and south change places and all else is as it was, the loads too, since the
    weather is told by its year's sums. What is trained on lies north.
    """
    south = numbers["latitude"] < 0
    if not south.any():
        return numbers
    seen, sides = numbers.copy(), ["north_radiation", "south_radiation"]
    for north in (q.name for q in REFERENCE if q.name.endswith("_north") and q.name in numbers):
        sides += [north, north.replace("_north", "_south")]
    seen.loc[south, "latitude"] = -numbers["latitude"]
    seen.loc[south, "orientation"] = (180 - numbers["orientation"]) % 360
    others = [side for pair in zip(sides[1::2], sides[::2], strict=True) for side in pair]
    seen.loc[south, sides] = numbers.loc[south, others].to_numpy()
    return seen


def _looks_like_radians(orientation: np.ndarray) -> bool:
    """Whether azimuths are eighths of 2π, or fractions all over 0 to 2π."""
    if orientation.min() < 0 or orientation.max() > 2 * np.pi + 0.01 or not orientation.any():
        return False
    eighths = orientation / (np.pi / 4)
    if np.abs(eighths - np.round(eighths)).max() < 2e-3:
        return True
    return np.ptp(orientation) > np.pi and bool((orientation % 1 != 0).any())


def _check_units(numbers: pd.DataFrame, name: str) -> None:
    if _looks_like_radians(numbers["orientation"].to_numpy()):
        raise InputError(
            f"{name}: orientation looks like radians (at most {numbers['orientation'].max():.4g})",
            "Give degrees; if these are degrees, round them to whole ones.",
        )
    spread = numbers["gains"] / (2 * numbers["width"] * numbers["depth"])
    if numbers["gains"].median() > MOST_GAINS and 0.5 <= spread.median() <= MOST_GAINS / 2:
        raise InputError(
            f"{name}: gains look like W of the whole house (median {numbers['gains'].median():g})",
            "Give W/m2 of floor.",
        )
    by_name = {q.name: q for q in DESIGN + WEATHER}
    for column in KELVIN_COLUMNS:
        if numbers[column].median() > 200:
            raise InputError(
                f"{name}: {column} looks like kelvin (median {numbers[column].median():.1f})",
                "Give degrees Celsius.",
            )
    for column in FAHRENHEIT_COLUMNS:
        if numbers[column].median() > 50:
            raise InputError(
                f"{name}: {column} looks like Fahrenheit (median {numbers[column].median():.1f})",
                "Give degrees Celsius.",
            )
    for column, factors in FACTORS.items():
        quantity, median = by_name[column], numbers[column].median()
        beyond = median > quantity.high * 1.5 or median < quantity.low / 1.5
        low = max(quantity.low, quantity.high / 50)  # an overhang of 2.5 is none of 2.5 mm
        for factor, unit in factors.items():
            if beyond and low <= median / factor <= quantity.high:
                raise InputError(
                    f"{name}: {column} looks like {unit} (median {median:g})",
                    f"Give {quantity.unit if quantity.unit != '1' else 'a share from 0 to 1'}.",
                )


RANGES = {quantity.name: (quantity.low, quantity.high) for quantity in DESIGN + WEATHER}


def out_of_range(
    numbers: pd.DataFrame, ranges: Mapping[str, Sequence[float]] = RANGES
) -> list[list[str]]:
    """For each row the names of the inputs that are told and lie outside what was trained on.

    `ranges`: lowest and highest by name.
    """
    numbers = northern(numbers)
    outside = np.stack(
        [
            (numbers[name] < low) | (numbers[name] > high)
            for name, (low, high, *_) in ranges.items()
        ],
        axis=1,
    )
    names, found = list(ranges), [[] for _ in range(len(numbers))]
    for row in np.flatnonzero(outside.any(1)):
        found[row] = [names[i] for i in np.flatnonzero(outside[row])]
    return found
