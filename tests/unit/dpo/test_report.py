"""What the report says of the pairs adds up, and of what was cut."""

from hypothesis import given
from hypothesis import strategies as st

from tasks.dpo.report import cut_warning, trained_on


@given(st.integers(1, 10_000), st.integers(0, 10_000), st.integers(1, 10_000), st.integers(0, 128))
def test_pairs_trained_on_are_those_that_were(
    fitting: int, too_long: int, seen: int, apart: int
) -> None:
    card = {"splits": {"train": {"pairs": fitting + too_long + apart}}}
    trained = {"pairs": fitting, "too_long": too_long, "trained": min(seen, fitting)}
    trained["validation"] = apart
    first, *rest = trained_on(card, {name: float(n) for name, n in trained.items()}).values()
    assert first == sum(rest)
    assert rest[0] == min(seen, fitting)


def test_many_cut_answers_are_warned_of() -> None:
    assert cut_warning(0.05) == ""
    assert "12% of the pairs" in cut_warning(0.12) and "--max-tokens" in cut_warning(0.12)
