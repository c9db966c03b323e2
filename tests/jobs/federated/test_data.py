"""A tenant's table: what is taken, what is named and refused, and that no value is told."""

from pathlib import Path

import numpy as np
import pytest

from infra.errors import InputError
from jobs.federated.data import load
from tests.jobs.federated.conftest import FEATURES, write_tenant


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    write_tenant(tmp_path / "a", 1)
    write_tenant(tmp_path / "b", 1, columns=["label", *reversed(FEATURES)])
    a, b = (load(tmp_path / name / "data.csv", FEATURES, "label") for name in "ab")
    assert np.array_equal(a.train_x, b.train_x) and np.array_equal(a.held_out_y, b.held_out_y)
    assert a.train_x.mean(0) == pytest.approx(0, abs=1e-9)
    assert a.train_x.std(0) == pytest.approx(1)


def test_a_row_stays_in_its_part_when_others_come(tmp_path: Path) -> None:
    write_tenant(tmp_path / "a", 1)
    path = tmp_path / "a" / "data.csv"
    before = load(path, FEATURES, "label")
    write_tenant(tmp_path / "more", 2)
    own, more = (p.read_text().splitlines() for p in (path, tmp_path / "more" / "data.csv"))
    path.write_text("\n".join([own[0], *more[1:], *own[1:]]) + "\n")
    after = load(path, FEATURES, "label")
    labels = after.held_out_y[-len(before.held_out_y) :]
    assert np.array_equal(labels, before.held_out_y)


def test_with_ranges_no_row_has_a_part_in_how_another_is_scaled(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"

    def scaled(*odd: str) -> np.ndarray:
        rows = [f"{n},{n % 2},{int(n < 6)}" for n in range(20)]
        path.write_text("\n".join(["age,label,held_out", *rows, *odd]))
        return load(path, ["age"], "label", [(0.0, 10.0)]).train_x[:, 0]

    usual = scaled()
    assert usual == pytest.approx((np.arange(6, 20) - 5) / 5)
    found = scaled("1e9,1,0", "?,0,0")
    assert np.array_equal(found[:-2], usual) and found[-2:].tolist() == [10.0, 0.0]


def test_a_column_says_what_is_held_out(tmp_path: Path) -> None:
    rows = [f"{n},{n % 2},{int(n < 6)}" for n in range(20)]
    path = tmp_path / "data.csv"
    path.write_text("\n".join(["age,label,held_out", *rows]))
    table = load(path, ["age"], "label")
    assert (len(table.train_y), len(table.held_out_y)) == (14, 6)


def test_missing_values_become_the_mean(tmp_path: Path) -> None:
    rows = [f"{n if n % 5 else '?'},,{n % 2}" for n in range(40)]
    (tmp_path / "data.csv").write_text("\n".join(["age,blood,label", *rows]))
    table = load(tmp_path / "data.csv", ["age", "blood"], "label")
    assert np.isfinite(table.train_x).all() and (table.train_x[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([], "the column age, label is missing"),
        (["age,label"], "0 rows"),
        (["age,label", *["1,1"] * 30], "all rows are of one class"),
        (["age,label", *["731.25,2"] * 30], "other labels than 0 and 1"),
        (["age,label", "731.25,yes", *["1,1"] * 30], "line 2, column label is no finite number"),
        (["age,label", "inf,1", *["1,1"] * 30], "line 2, column age is no finite number"),
        (["age,label", "731.25,1,1", *["1,1"] * 30], "line 2 has 3 fields, not 2"),
        (["age", *["731.25"] * 30], "the column label is missing"),
    ],
)
def test_what_is_wrong_is_named_without_its_value(
    tmp_path: Path, lines: list[str], named: str
) -> None:
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError) as error:
        load(path, ["age"], "label")
    assert named in error.value.message and "731" not in error.value.message


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(b"age,label\n\xff\xfe,1\n")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "data.csv", ["age"], "label")
