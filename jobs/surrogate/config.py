"""What designs, climates and results are called, their units and ranges, and the job configs.

Imports nothing heavy: the control plane reads it too.
"""

from typing import NamedTuple

from pydantic import BaseModel, Field

from infra.contract import Group


class Quantity(NamedTuple):
    """A named number with its unit and the range that designs are drawn from."""

    name: str
    unit: str
    low: float
    high: float
    meaning: str


DESIGN = (
    Quantity("width", "m", 4, 20, "length of the front facade"),
    Quantity("depth", "m", 3, 8, "depth of each of the two zones, front and back"),
    Quantity("height", "m", 2.4, 4, "height of the zones"),
    Quantity("wall_u", "W/m2K", 0.1, 1.8, "of the outer walls"),
    Quantity("roof_u", "W/m2K", 0.1, 1.5, "of the roof"),
    Quantity("floor_u", "W/m2K", 0.1, 1.0, "of the floor over outdoor air"),
    Quantity("mass", "m", 0.02, 0.25, "concrete inside the insulation of walls, roof and floor"),
    Quantity("window_front", "1", 0.05, 0.7, "glass in the front facade"),
    Quantity("window_back", "1", 0.05, 0.5, "glass in the back facade"),
    Quantity("orientation", "deg", 0, 360, "the front facade's azimuth, clockwise from north"),
    Quantity("overhang", "m", 0, 1.5, "depth of the shade at the top of the front facade"),
    Quantity("infiltration", "1/h", 0.1, 1.5, "air changes"),
    Quantity("gains", "W/m2", 0, 15, "of people, light and equipment, all hours"),
    Quantity("heating_setpoint", "degC", 17, 22, "from 6 to 22 o'clock"),
    Quantity("cooling_setpoint", "degC", 23, 28, "all hours"),
    Quantity("setback", "K", 0, 6, "lower heating setpoint at night"),
)
CLIMATE = (
    Quantity("latitude", "deg", 0, 66, "north"),
    Quantity("warmth", "K", -8, 9, "above what latitude and altitude let expect"),
    Quantity("seasonality", "1", 0, 1, "of the seasons, from maritime to continental"),
    Quantity("daily_swing", "K", 1.5, 9.5, "amplitude of the day"),
    Quantity("clearness", "1", 0.33, 0.7, "global over extraterrestrial radiation"),
    Quantity("wind", "m/s", 0.8, 7, "mean speed at 10 m"),
    Quantity("height", "1", 0, 1, "share of places that lie lower"),
    Quantity("dryness", "K", 1.5, 18, "dew point below the day's mean temperature"),
)
DEGREE_DAYS = (
    Quantity("heating_degrees_5", "K d", 0, 7500, "below 5 degC, summed over the year"),
    Quantity("heating_degrees_12", "K d", 0, 10000, "below 12 degC"),
    Quantity("heating_degrees_18", "K d", 0, 12500, "below 18 degC"),
    Quantity("cooling_degrees_24", "K d", 0, 4500, "above 24 degC"),
)
"""Degree days, from every hour of the year: how often it is how cold, which swings do not tell."""
FACINGS = ("north", "east", "south", "west")
REFERENCE = tuple(
    Quantity(f"{load}_{room}_{facing}", "kWh/m2", 0, 900, "a year, of a reference room")
    for room in ("light", "heavy")
    for load in ("heating", "cooling")
    for facing in FACINGS
)
"""What rooms that are always the same need: how sun, temperature, sky and wind go together."""
JOINT = (
    Quantity("pressure", "kPa", 70, 104, "of the air, mean"),
    Quantity("sky_depression", "K", 2, 30, "of the sky below the air, mean"),
    *REFERENCE,
)
WEATHER = (
    Quantity("latitude", "deg", 0, 66, "north"),
    Quantity("mean_temperature", "degC", -14, 36, "of the year"),
    Quantity("seasonal_swing", "K", 0.4, 26, "half the span of the monthly means"),
    Quantity("daily_swing", "K", 1.4, 11, "half the mean daily span"),
    Quantity("global_radiation", "kWh/m2", 500, 2600, "on the horizontal, a year"),
    Quantity("diffuse_share", "1", 0.2, 1, "of the global radiation"),
    Quantity("wind", "m/s", 0.8, 7, "mean speed at 10 m"),
    Quantity("north_radiation", "kWh/m2", 230, 1000, "on a vertical plane, a year"),
    Quantity("east_radiation", "kWh/m2", 250, 1550, "on a vertical plane, a year"),
    Quantity("south_radiation", "kWh/m2", 300, 1850, "on a vertical plane, a year"),
    Quantity("west_radiation", "kWh/m2", 250, 1550, "on a vertical plane, a year"),
    *DEGREE_DAYS,
    *JOINT,
)
"""What the surrogate is told of the weather, worked out from the hours of a year."""
INPUTS = tuple(q.name for q in DESIGN + WEATHER)
TARGETS = (
    Quantity("heating_front", "kWh/m2", 0, 600, "a year, per floor area of the zone"),
    Quantity("heating_back", "kWh/m2", 0, 600, "a year, per floor area of the zone"),
    Quantity("cooling_front", "kWh/m2", 0, 600, "a year, sensible, per floor area of the zone"),
    Quantity("cooling_back", "kWh/m2", 0, 600, "a year, sensible, per floor area of the zone"),
    Quantity("temperature_front", "degC", 10, 35, "mean of the year, air"),
    Quantity("temperature_back", "degC", 10, 35, "mean of the year, air"),
    Quantity("solar", "kWh/m2", 0, 1500, "a year, through all windows, per floor area of both"),
    Quantity("loss", "kWh/m2", -500, 1500, "a year, net, by envelope and air, per floor of both"),
)
OUTPUTS = tuple(q.name for q in TARGETS)
LOADS = 4
"""Heating and cooling of both rooms: the first of TARGETS, and what accuracy is about."""
SUN = OUTPUTS.index("solar")
NEVER_NEGATIVE = [*range(LOADS), SUN]
OBSERVED = (
    Quantity("heating_front", "W", 0, 1e6, "mean of the hour"),
    Quantity("heating_back", "W", 0, 1e6, "mean of the hour"),
    Quantity("cooling_front", "W", 0, 1e6, "mean of the hour, sensible"),
    Quantity("cooling_back", "W", 0, 1e6, "mean of the hour, sensible"),
    Quantity("temperature_front", "degC", -30, 70, "of the air"),
    Quantity("temperature_back", "degC", -30, 70, "of the air"),
    Quantity("dry_bulb", "degC", -90, 60, "outdoors"),
    Quantity("direct_normal", "W/m2", 0, 1500, "mean of the hour"),
    Quantity("diffuse_horizontal", "W/m2", 0, 1200, "mean of the hour"),
    Quantity("wind_speed", "m/s", 0, 60, "at 10 m"),
)
"""What is measured hour by hour in a real building."""


GIVEN = 999_999
"""Number of the climate of the user's own weather, which is trained on and not judged on."""


class SimulateConfig(BaseModel):
    """Designs to simulate: how many, over how many climates; or all in the given weather, each
    counted as a climate of its own, so that designs are what is split and judged."""

    designs: int = Field(ge=1)
    climates: int = Field(ge=1)
    seed: int = Field(ge=0)
    steps_per_hour: int = 1
    town: bool = False


class CollectConfig(BaseModel):
    """Checking files has no settings."""


class DriftConfig(BaseModel):
    """When the champion's error on the newest observations counts as drift."""

    significance: float = Field(gt=0, lt=1)


class EvaluateConfig(BaseModel):
    """What a version is judged by."""

    generation: int = Field(ge=0)


class Optimisation(Group):
    """How designs are searched."""

    risk_aversion: float = Field(
        default=1.0,
        ge=0,
        le=100,
        title="Risk aversion",
        description="Standard deviations that are added to the predicted energy.",
    )
    population: int = Field(
        default=100, ge=4, le=10_000, title="Population", description="Designs in a generation."
    )
    generations: int = Field(
        default=150, ge=1, title="Generations", description="Of each of the two searches."
    )
    checked: int = Field(
        default=16, ge=2, title="Checked", description="Designs of each front that are simulated."
    )


class OptimiseConfig(Optimisation):
    seed: int = Field(default=0, ge=0)


class Training(Group):
    """How the surrogate is trained."""

    designs: int = Field(
        default=4096,
        ge=64,
        le=1_000_000,
        title="Designs",
        description="Synthetic designs to simulate and learn from.",
    )
    climates: int = Field(
        default=2048,
        ge=8,
        title="Climates",
        description="Made-up climates that the designs are spread over.",
    )
    epochs: int = Field(
        default=250, ge=1, title="Epochs", description="Passes over the training designs."
    )
    folds: int = Field(
        default=5,
        ge=2,
        le=10,
        title="Folds",
        description="Members of the ensemble; each leaves out its own fold of the climates.",
    )
    learning_rate: float = Field(
        default=6e-3, gt=0, title="Learning rate", description="Of AdamW, at its peak."
    )
    replay: int = Field(
        default=2048,
        ge=0,
        title="Replay",
        description="Designs of earlier trainings that are kept and trained on again.",
    )
    real_share: float = Field(
        default=0.7,
        ge=0,
        le=1,
        title="Share of observations",
        description="Of the loss, where there are observations; the rest is simulated.",
    )
    balance_weight: float = Field(
        default=0.3, ge=0, title="Energy-balance weight", description="Of that term of the loss."
    )
    coupling_weight: float = Field(
        default=0.1, ge=0, title="Zone-coupling weight", description="Of that term of the loss."
    )
    bounds_weight: float = Field(
        default=0.1, ge=0, title="Bounds weight", description="Of that term of the loss."
    )
    confidence: float = Field(
        default=0.9,
        gt=0.5,
        lt=1,
        title="Confidence",
        description="Share of held-out designs that the intervals shall cover.",
    )


class TrainConfig(Training):
    seed: int = Field(default=0, ge=0)
    generation: int = Field(
        default=0, ge=0, description="Versions that there were before; each draws other designs."
    )
