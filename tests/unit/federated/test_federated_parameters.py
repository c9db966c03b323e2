"""What excludes each other is refused by the parameters: by plan, form, webhook and run alike."""

from typing import Any

import pytest

from deployments.options import parameters
from flows import federated_rounds
from infra.compute import environments
from infra.errors import InputError
from tasks.federated.parameters import FederatedParameters

NOISE = {"noise_multiplier": 4}
RECORDS = {**NOISE, "privacy_unit": "record"}
RANGES = "age=20:80, -1:1"


@pytest.mark.parametrize(
    ("told", "named"),
    [
        (
            {"model": "design", "federation": "clinics"},
            "--model 'design' does not go with --federation",
        ),
        ({"model": "design", "features": "x"}, "--features is of tables"),
        ({"model": "design", "label": "sick"}, "--label is of tables"),
        ({"model": "design", "rounds": {"hidden": 4}}, "--hidden is of tables"),
        ({"model": "design", "rounds": {"own_bias": False}}, "--own-bias is of tables"),
        ({"model": "some/model"}, "--tenants or --federation is needed with a --model"),
        ({"adapters": {"lora_rank": 4}}, "--lora-rank is of adapters; give --model"),
        ({"adapters": {"batch": 4}}, "--batch is of adapters"),
        ({"federation": "clinics", "tenants": "here"}, "--tenants does not go with --federation"),
        ({"federation": "clinics", "centralised": True}, "--centralised does not go with"),
        ({"features": "x,x"}, "--features names a column twice"),
        ({"features": "x,sick", "label": "sick"}, "--features names .* or that of --label"),
        ({"rounds": {"proximal": 1}}, "--proximal is of --strategy fedprox only"),
        ({"rounds": {"server_rate": 1}}, "--server-rate is of --strategy fedadam, fedyogi, fedad"),
        ({"rounds": {"strategy": "median"}}, "median needs --minimum-tenants of at least 3"),
        (
            {"rounds": {"strategy": "krum", "minimum_tenants": 3}, "privacy": NOISE},
            "--noise-multiplier does not go with --strategy krum",
        ),
        ({"privacy": {"max_epsilon": 1}}, "--max-epsilon says how .* give --noise-multiplier"),
        ({"privacy": {"clipping_norm": 0.1}}, "--clipping-norm says"),
        ({"privacy": {"delta": 1e-6}}, "--delta says"),
        ({"privacy": {"adaptive_clipping": True}}, "--adaptive-clipping says"),
        (
            {
                "rounds": {"secure_aggregation": True, "minimum_tenants": 3},
                "privacy": {**NOISE, "adaptive_clipping": True},
            },
            "--adaptive-clipping does not go with --secure-aggregation",
        ),
        ({"privacy": {"privacy_unit": "record"}}, "--privacy-unit says how .* --noise-multiplier"),
        (
            {"privacy": {**NOISE, "sampling_rate": 0.5}},
            "--sampling-rate is of --privacy-unit record",
        ),
        ({"privacy": RECORDS}, "--ranges is needed with --privacy-unit record"),
        ({"privacy": RECORDS, "model": "design"}, "--privacy-unit record is of tables only"),
        ({"model": "design", "ranges": "0:1"}, "--ranges is of tables"),
        (
            {"privacy": {**RECORDS, "adaptive_clipping": True}, "ranges": RANGES},
            "--adaptive-clipping is of --privacy-unit tenant only",
        ),
        ({"ranges": "age"}, "--ranges: 'age' is no range such as age=20:80"),
        ({"ranges": "age=1"}, "--ranges: 'age=1' is no range"),
        ({"ranges": "age=80:20"}, "--ranges: 'age=80:20' does not go from a lower"),
        ({"ranges": "age=0:inf"}, "--ranges: 'age=0:inf' does not go"),
        ({"ranges": "x=0:1", "features": "age"}, "--ranges names x, which --features does not"),
        ({"group": "kind", "label": "sick"}, "--label does not go with --group"),
        ({"group": "kind", "rounds": {"own_bias": False}}, "--own-bias does not go with --group"),
        ({"group": "kind", "model": "design"}, "--group is of tables, and with --model"),
        ({"encoders": {"dimensions": 8}}, "--dimensions is of encoders; give --group"),
        ({"group": "kind", "adapters": {"batch": 4}}, "--batch is of adapters"),
        ({"group": "kind", "features": "x,kind"}, "--features names .* or that of --group"),
        (
            {"group": "kind", "privacy": RECORDS, "ranges": RANGES},
            "--privacy-unit record does not go with --group",
        ),
        ({"rounds": {"minimum_tenants": 201}}, "--minimum-tenants: .* less than or equal to 200"),
    ],
)
def test_what_does_not_go_together_is_named(told: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named) as error:
        parameters(FederatedParameters, {}, told)
    assert error.value.remedy


@pytest.mark.parametrize(
    "told",
    [
        {"model": "design", "adapters": {"lora_rank": 4, "batch": 4}, "privacy": NOISE},
        {"model": "some/model", "federation": "clinics", "adapters": {"lora_rank": 4}},
        {"model": "design", "rounds": {"secure_aggregation": True, "minimum_tenants": 3}},
        {"federation": "clinics", "features": "x, y", "label": "sick", "rounds": {"hidden": 4}},
        {"rounds": {"strategy": "fedadam", "server_rate": 1}, "privacy": NOISE},
        {"rounds": {"secure_aggregation": True, "minimum_tenants": 3}, "privacy": NOISE},
        {"privacy": {**RECORDS, "sampling_rate": 0.1}, "ranges": RANGES, "features": "age,x"},
        {
            "privacy": RECORDS,
            "ranges": RANGES,
            "rounds": {"strategy": "krum", "minimum_tenants": 3},
        },
        {
            "privacy": RECORDS,
            "ranges": RANGES,
            "rounds": {"secure_aggregation": True, "minimum_tenants": 3},
        },
        {"privacy": {**NOISE, "adaptive_clipping": True, "max_epsilon": 1, "delta": 1e-6}},
        {
            "group": "kind",
            "encoders": {"dimensions": 8},
            "ranges": RANGES,
            "privacy": NOISE,
            "rounds": {"hidden": 32, "secure_aggregation": True, "minimum_tenants": 3},
        },
        {"group": "kind", "federation": "clinics", "features": "x, y, label"},
    ],
)
def test_what_goes_together_is_taken(told: dict[str, Any]) -> None:
    assert parameters(FederatedParameters, {}, told)


def test_a_range_without_a_name_is_of_all_others() -> None:
    told = FederatedParameters.model_validate({"ranges": RANGES})
    assert told.scales(["x", "age", "y"]) == [(-1, 1), (20, 80), (-1, 1)]
    assert FederatedParameters.model_validate({}).scales(["x"]) is None
    with pytest.raises(InputError, match="--ranges: none is given of x, y"):
        FederatedParameters.model_validate({"ranges": "age=2:3"}).scales(["x", "age", "y"])


def test_the_plan_says_whose_privacy_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "made", lambda _: None)  # what counts epsilons is not there

    def step(**told: Any) -> str:
        return federated_rounds.capability.plan(FederatedParameters.model_validate(told))[0].step

    assert step() == "train"
    assert (
        step(privacy=NOISE) == "train (privacy of whole tenants, epsilon 8 at most over all nights)"
    )
    records = step(privacy=RECORDS | {"max_epsilon": 3}, ranges="0:1")
    assert records == "train (privacy of single records, epsilon 3 at most over all nights)"
