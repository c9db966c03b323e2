"""EPW files as programs, spreadsheets and converters leave them: read, or refused by their name."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import InputError
from jobs.thermal.ashrae140 import Row, markdown, summary
from jobs.thermal.weather import HOURS, read_epw
from tests.helpers.epw import lines


def write(folder: Path, content: list[str], encoding: str = "utf-8") -> Path:
    path = folder / "here.epw"
    path.write_bytes(("\n".join(content) + "\n").encode(encoding))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_epw(path)
    assert caught.value.remedy
    return caught.value.message


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_place_keeps_its_letters(tmp_path: Path, encoding: str) -> None:
    content = lines()
    content[0] = content[0].replace("Here", "São José")
    assert read_epw(write(tmp_path, content, encoding)).name == "São José"


def test_blank_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    content = lines()
    doubled = [*content[:8], *(part for row in content[8:] for part in (row, " "))]
    assert read_epw(write(tmp_path, doubled)).hours == HOURS
    doubled[20] = "1,2"
    assert "line 21: 2 fields" in refusal(write(tmp_path, doubled))


def test_a_header_with_a_line_more_ends_with_its_data_periods(tmp_path: Path) -> None:
    content = lines()
    head = [*content[:6], "COMMENTS 2,one", "and two", "DATA PERIODS,1,1,Data,Sunday, 1/ 1,12/31"]
    assert read_epw(write(tmp_path, [*head, *content[8:]])).hours == HOURS


def test_the_last_day_of_a_leap_year_that_was_cut_is_missed(tmp_path: Path) -> None:
    told = refusal(write(tmp_path, lines(leap=True)[: 8 + HOURS]))
    assert "31 December" in told and "29 February" in told
    assert "31 December" not in refusal(write(tmp_path, lines()[:5000]))


def test_a_file_that_begins_elsewhere_says_where(tmp_path: Path) -> None:
    content = lines()
    july = next(n for n, row in enumerate(content) if row.startswith("2001,7,1,1,"))
    turned = [*content[:8], *content[july:], *content[8:july]]
    assert "line 9: the data begin on 1 July" in refusal(write(tmp_path, turned))
    assert "begin on 1 July" in refusal(write(tmp_path, [*content[:8], *content[july : july + 24]]))


def test_semicolons_are_told(tmp_path: Path) -> None:
    content = lines()
    content[8:] = [row.replace(",", ";").replace(".", ",") for row in content[8:]]
    assert "semicolons" in refusal(write(tmp_path, content))


def shifted(content: list[str], hours: int) -> list[str]:
    """The values of every hour `hours` later."""
    rows = [row.split(",") for row in content[8:]]
    values = [row[5:] for row in rows]
    values = values[-hours:] + values[:-hours]
    return [*content[:8], *(",".join(r[:5] + v) for r, v in zip(rows, values, strict=True))]


@pytest.mark.parametrize("hours", [7, -1, 12])
def test_a_sun_that_shines_at_other_hours_is_refused(tmp_path: Path, hours: int) -> None:
    told = refusal(write(tmp_path, shifted(lines(), hours)))
    assert "sun's noon" in told and "time zone" in told


def test_a_longitude_of_the_wrong_sign_is_refused(tmp_path: Path) -> None:
    content = lines()
    content[0] = content[0].replace(",10.0,1.0,", ",-10.0,1.0,")
    assert "sun's noon" in refusal(write(tmp_path, content))


def changed(content: list[str], column: int, value: str) -> list[str]:
    rows = (row.split(",") for row in content[8:])
    return content[:8] + [",".join([*r[:column], value, *r[column + 1 :]]) for r in rows]


def placed(content: list[str], **fields: str) -> list[str]:
    """With other values in the fields of the first line, by their places."""
    first = content[0].split(",")
    for place, value in fields.items():
        first[int(place[1:])] = value
    return [",".join(first), *content[1:]]


MADE = lines()
OTHERS = {
    "no direct radiation": (changed(MADE, 14, "0"), "dni brings 0 kWh/m2"),
    "radiation in kWh": (changed(MADE, 15, "0.04"), "dhi brings 0.35 kWh/m2"),
    "pressure at sea level": (placed(MADE, _9="1650"), "98000 Pa, 1650 m have 83011"),
    "altitude in feet": (placed(MADE, _9="5413"), "98000 Pa, 5413 m have"),
    "polar night": (placed(MADE, _6="78.2", _7="15.6"), "while the sun is down at latitude 78.2"),
    "hours from 0": (
        changed(MADE[:33], 3, "0"),
        "begin on 1 January, hour 0, not on 1 January, hour 1",
    ),
    "two rows an hour": ([*MADE[:9], *MADE[8:]], "line 10: hour 1 is there twice"),
    "a zip archive": (["PK\x03\x04"], "is a zip archive"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_weather_cannot_be_is_refused(tmp_path: Path, case: str) -> None:
    content, told = OTHERS[case]
    assert told in refusal(write(tmp_path, content))


@pytest.mark.parametrize("town", ["725650TYCST", "chicago"])
def test_a_latitude_of_the_wrong_sign_is_refused(shared: Path, tmp_path: Path, town: str) -> None:
    content = (shared / "weather" / f"{town}.epw").read_text("latin-1").splitlines()
    latitude = content[0].split(",")[6]
    told = refusal(write(tmp_path, placed(content, _6=f"-{latitude}")))
    assert "while the sun is down" in told and f"latitude -{latitude}" in told


def test_what_an_infrared_of_nearly_nothing_says_is_not_believed(tmp_path: Path) -> None:
    missing, five = (
        read_epw(write(tmp_path, changed(MADE, 12, text))).sky_temperature for text in ("9999", "5")
    )
    assert (missing == five).all()


def test_a_letter_that_some_call_a_line_break_is_none(tmp_path: Path) -> None:
    assert read_epw(write(tmp_path, placed(MADE, _1="A\x85B"), "latin-1")).name == "A\x85B"


def test_a_mean_of_nothing_is_no_error() -> None:
    rows = [
        Row("900", "annual_heating", "MWh", value, 0.0, 0.1, mean)
        for value, mean in ((0.0, 0.0), (0.05, 0.0), (1.05, 1.0))
    ]
    assert rows[0].from_mean == 0.0
    assert "+5.0%" in summary(rows) and "2 of 3" in summary(rows)
    assert "| – |" in markdown(rows)


PUBLIC = {
    "29-feb-kept-31-dec-cut": "31 December",
    "blank-line-after-each-row": None,
    "crlf-extra-columns-blank-end": None,
    "decimal-commas": "semicolons",
    "direct-missing-global-there": "line 9: dni is missing",
    "header-comment-with-line-break": None,
    "july-to-june": "1 July",
    "latin-1-place": None,
    "leap-year-without-29-feb": None,
    "one-day": "21 July",
    "utc-data-local-zone": "sun's noon",
}


@pytest.mark.parametrize("case", PUBLIC)
def test_the_public_cases(shared: Path, case: str, tmp_path: Path) -> None:
    made, told = tmp_path / "made.epw", PUBLIC[case]
    program = shared / "public-cases" / f"epw-{case}" / "make.py"
    if not program.is_file():
        pytest.skip(f"needs {program}")
    source = shared / "weather" / "725650TYCST.epw"
    subprocess.run([sys.executable, program, source, made], check=True)
    if told is None:
        assert read_epw(made).dry_bulb.mean() == pytest.approx(10.875, abs=1e-3)
    else:
        assert told in refusal(made)
