"""What is spent of privacy, against published figures, and what can never be otherwise."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.federated import accountant
from jobs.federated.config import FederatedConfig, Privacy, Spent

MNIST = 60_000


def sampled(noise: float, rate: float, steps: int) -> Spent:
    """Releases of one run of DP-SGD."""
    return Spent(noise_multiplier=noise, rounds=1, unit="record", sampling_rate=rate, steps=steps)


def test_epsilon_is_that_of_the_gaussian_mechanism() -> None:
    """One release with noise 1 at δ = 1e-5 has ε = 4.377 exactly (Balle and Wang 2018, theorem 8);
    Rényi's bound lies above it."""
    one = accountant.epsilon([Spent(noise_multiplier=1, rounds=1)], 1e-5)
    assert 4.377 <= one < 4.9
    four = accountant.epsilon([Spent(noise_multiplier=2, rounds=4)], 1e-5)
    assert four == pytest.approx(one, rel=1e-3), "four times half as much is as much as once"
    assert accountant.epsilon([Spent(noise_multiplier=2, rounds=0)], 1e-5) == 0


@pytest.mark.parametrize(
    ("noise", "batch", "epochs", "published"),
    [(1.12, 256, 60, 2.92), (1.2, 256, 10, 1.20), (0.6, 256, 30, 9.74)],
)
def test_epsilon_is_that_of_dp_sgd_on_mnist(
    noise: float, batch: int, epochs: int, published: float
) -> None:
    """The table of TensorFlow Privacy's tutorials (δ = 1e-5), by the conversion of Mironov 2017;
    that of Balle 2020, which we have, is tighter by some per cent."""
    spent = sampled(noise, batch / MNIST, epochs * MNIST // batch)
    assert 0.75 * published < accountant.epsilon([spent], 1e-5, "record") <= published


def test_epsilon_is_that_of_opacus() -> None:
    """1.6.0's RDPAccountant, run once with the same noise, rate and steps."""
    for noise, batch, steps, theirs in (
        (1.1, 256, 3515, 1.281144),
        (1.3, 250, 3600, 0.942200),
        (0.7, 256, 10546, 6.318101),
    ):
        spent = sampled(noise, batch / MNIST, steps)
        assert accountant.epsilon([spent], 1e-5, "record") == pytest.approx(theirs, rel=1e-3)


@settings(max_examples=8, deadline=None)
@given(
    st.floats(0.5, 20), st.floats(0.01, 1), st.integers(1, 300), st.floats(1, 3), st.integers(0, 50)
)
def test_more_noise_or_fewer_steps_or_rarer_rows_never_spend_more(
    noise: float, rate: float, steps: int, more: float, fewer: int
) -> None:
    one = accountant.epsilon([sampled(noise, rate, steps)], 1e-5, "record")
    for less in (
        sampled(noise * more, rate, steps),
        sampled(noise, rate, max(1, steps - fewer)),
        sampled(noise, rate / more, steps),
    ):
        assert accountant.epsilon([less], 1e-5, "record") <= one + 1e-9


def test_nights_of_either_kind_share_a_record_but_not_a_tenant() -> None:
    """Without a row an update of norm C may become its opposite, 2 C away."""
    mean = Spent(noise_multiplier=4, rounds=3)
    steps = Spent(noise_multiplier=2, rounds=3, unit="record")
    assert accountant.epsilon([steps], 1e-5, "tenant") == 0, "it promises a tenant nothing"
    record = accountant.epsilon([mean], 1e-5, "record")
    assert record == pytest.approx(accountant.epsilon([steps], 1e-5, "record"))
    both = accountant.epsilon([mean, steps], 1e-5, "record")
    assert record < both < 2 * record
    assert accountant.epsilon([mean, steps], 1e-5) == accountant.epsilon([mean], 1e-5)


def test_a_round_of_records_is_all_its_local_steps() -> None:
    told = {"tenants": "", "names": [], "features": [], "label": "y", "seed": 0, "spent": {}}
    told |= {"centralised": False, "rounds": {"local_steps": 7}}
    private = {"noise_multiplier": 3, "privacy_unit": "record", "sampling_rate": 0.2}
    config = FederatedConfig.model_validate(told | {"privacy": private})
    rounds = accountant.epsilon([config.spends(2)], 1e-5, "record")
    assert rounds == accountant.epsilon([sampled(3, 0.2, 14)], 1e-5, "record")
    of_tenants = FederatedConfig.model_validate(told | {"privacy": {"noise_multiplier": 3}})
    assert of_tenants.spends(2) == Spent(noise_multiplier=3, rounds=2)


@pytest.mark.parametrize("unit", ["tenant", "record"])
def test_a_budget_ends(unit: str) -> None:
    privacy = Privacy.model_validate(
        {"noise_multiplier": 4, "max_epsilon": 3, "privacy_unit": unit}
    )

    def fits(rounds: int) -> bool:
        return accountant.fits([Spent(noise_multiplier=4, rounds=rounds, unit=unit)], privacy)

    assert fits(1) and not fits(100)
    assert sorted(map(fits, range(1, 20)), reverse=True) == [fits(n) for n in range(1, 20)]
