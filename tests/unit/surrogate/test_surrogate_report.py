"""What a retraining's report says: units, shares that mean something, prices of sure gains only."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from infra.contract import JobResult, Progress
from infra.models.verdicts import Verdict
from infra.objects import put
from jobs.surrogate.config import LOADS, OUTPUTS
from tasks.champions.report import Cost, Report, Score, markdown
from tasks.surrogate.report import climates_table, draw, targets_table, towns_section

METRICS = {
    **{f"{side}_error_{name}": 3.0 for side in ("candidate", "champion") for name in OUTPUTS},
    **{f"candidate_coverage_{name}": 0.9 for name in OUTPUTS},
    **{f"mean_{name}": 100.0 for name in OUTPUTS},
    "mean_cooling_front": 2.5,
    "candidate_error": 0.03,
    "champion_error": 0.045,
    "handbook_error": 0.06,
    "candidate_coverage": 0.88,
    "candidate_coverage_median_climate": 0.94,
    "candidate_coverage_worst_tenth": 0.7,
    "candidate_half_width": 0.06,
}


def row(temperature: float, heating: float, cooling: float) -> dict:
    truth = [heating, heating, cooling, cooling, 20.0, 20.0, 100.0, 50.0]
    return {
        "design": {"mean_temperature": temperature},
        "truth": truth,
        "candidate": {"mean": [value + 3.0 for value in truth], "half_width": [4.0] * len(truth)},
    }


def cells(table: str, name: str) -> list[str]:
    begin = f"| {name} |" if name else "| |"
    (line,) = (line for line in table.splitlines() if line.startswith(begin))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_both_errors_stand_in_their_unit_and_as_a_share() -> None:
    table = targets_table(METRICS)
    assert "median climate 94.0%, in the worst tenth of them at most 70.0%" in table
    assert cells(table, "heating front")[1:5] == ["kWh/m2", "100.0", "3 (3.0%)", "3 (3.0%)"]
    assert cells(table, "temperature front")[1:5] == ["degC", "100.0", "3", "3"]
    assert cells(table, "**all loads**")[3:5] == ["**3.0%**", "4.5%"]
    first = {name: value for name, value in METRICS.items() if not name.startswith("champion")}
    for name in ("heating front", "temperature front", "**all loads**"):
        assert cells(targets_table(first), name)[4] == "–"


def test_no_share_is_told_of_nearly_nothing() -> None:
    assert cells(targets_table(METRICS), "cooling front")[2:5] == ["2.5", "3", "3"]
    climates = climates_table([row(5.0, 150.0, 2.5), row(20.0, 0.0, 60.0)])
    assert cells(climates, "cold")[2:] == ["3.0 of 150.0"] * 2 + ["3.0 of 2.5"] * 2
    assert cells(climates, "temperate")[2:] == ["–"] * LOADS


@pytest.mark.parametrize(
    ("gain", "low", "said"),
    [
        (0.02, 0.01, "One point (0.01) of held-out accuracy cost **$2.0000**"),
        (0.02, -0.01, "The gain is not sure"),
        (-0.02, -0.03, None),
    ],
)
def test_only_a_sure_gain_has_a_price(gain: float, low: float, said: str | None) -> None:
    report = Report(
        run="r",
        model="house",
        resumed=False,
        collected={},
        scores=[Score(name="accuracy", champion=0.9, candidate=0.92, gain=gain, low=low, high=0.1)],
        verdict=Verdict(promote=True, gain=gain, confidence_interval=(0.015, 0.03), checks=[]),
        champion="1",
        candidate="2",
        served_from=None,
        costs=[Cost(job="train", launcher="local", seconds=1, usd=Decimal(4))],
        examples=[],
        look_next={},
    )
    text = markdown(report)
    assert f"95 % interval {low:+.3f} to +0.100)" in text, "not that of another --gate-confidence"
    told = [line for line in text.splitlines() if "One point" in line or "not sure" in line]
    assert len(told) == (said is not None) and (said is None or told[0].startswith(said))


def test_the_band_of_the_coverage_is_that_of_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, point = [], Progress(step=1, total=2, message="fold 1", metrics={"loss": 1.0}, time=0)
    monkeypatch.setattr(Figure, "savefig", lambda figure, _: drawn.append(figure))
    draw([row(5.0, 150.0, 2.5)], METRICS, [point], 0.9, 0.03, tmp_path / "any.png")
    coverage = drawn[0].axes[1]
    (band,) = coverage.patches
    assert (band.get_x(), band.get_width()) == pytest.approx((87, 6))
    assert "band: what the gate wants" in coverage.get_xlabel()
    shown = coverage.lines[-1]
    assert shown.get_ydata()[-1] == "all values" and shown.get_xdata()[-1] == 88


def test_towns_are_told_one_by_one(tmp_path: Path) -> None:
    told = {"error_kwh": 4.0, "error": 0.05, "coverage": 0.8, "half_width": 0.1, "outside": False}
    told |= {f"coverage_{name}": 0.8 for name in OUTPUTS} | {"coverage_cooling_back": 0.55}
    town = {"town": "here", "designs": 64, "mean": 80.0, "learnt": False, "candidate": told}
    far = town | {"town": "far", "candidate": told | {"coverage": 0.9, "outside": True}}
    own = far | {"town": "own", "learnt": True}

    def section(rows: list[dict]) -> str:
        path = tmp_path / "towns.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        stored = put(path, (tmp_path / "objects" / str(len(rows))).as_uri())
        result = JobResult(status="succeeded", artifacts={"towns": stored})
        return towns_section(result)["In real towns"]

    assert towns_section(JobResult(status="succeeded")) == {}
    text = section([town, far, own])
    assert cells(text, "here") == [
        "here", "64", "80.0", "4.00", "5.0%", "80.0%", "cooling back 55%", "10.0%", "",
    ]  # fmt: skip
    assert cells(text, "far")[-1] == "unlike the training"
    assert cells(text, "own")[-1] == "trained on"
    assert "Over the towns that it was not trained on 85.0% of the values" in text
    assert "80.0% in the worst" in text
    compared = section([row | {"champion": {"error": 0.125}} for row in (town, far)])
    assert cells(compared, "here")[5] == "12.5%"
