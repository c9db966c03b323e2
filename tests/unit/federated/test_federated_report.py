"""The report's tables and plot, from what a job leaves."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.federated.gate import RECALL
from tasks.federated.parameters import FederatedParameters
from tasks.federated.report import (
    draw,
    privacy_told,
    rounds_table,
    score,
    seen,
    tenants_table,
    told,
)

ROW = {
    "tenant": "north",
    "held-out": 20.0,
    "candidate-right": 16.0,
    "candidate-auc": 0.9,
    "local-right": 14.0,
    "local-won": 3.0,
    "local-lost": 1.0,
    "local-auc": 0.8,
}
LOG: list[dict[str, Any]] = [
    {
        "round": number,
        "took_part": ["north"],
        "left_out": {"south": "its data: a | b <b>"},
        "counts": {"north": {"right": 10.0 + number, "held-out": 20.0}},
        "seconds": 4.2,
    }
    for number in (1, 2)
]


def test_tenants_are_told_by_model() -> None:
    one_class = {name: value for name, value in ROW.items() if "auc" not in name}
    unheard = [{"tenant": "west", "refused": "no answer in time"}]
    told = tenants_table([ROW, one_class | {"tenant": "south"}], unheard)
    assert "| north | 20 | 0.700 | 0.800 | 0.800 | 0.900 |" in told
    assert "| south | 20 | 0.700 | 0.800 | – | – |" in told
    assert "- west has not judged: no answer in time" in told


def test_without_areas_there_is_no_column_of_them() -> None:
    """As of answers of a language model."""
    told = tenants_table([{n: v for n, v in ROW.items() if "auc" not in n}], [])
    assert "AUC" not in told and "| north | 20 | 0.700 | 0.800 |" in told
    assert "| **mean of tenants** | | 0.700 | 0.800 |" in told


def test_of_an_encoder_recall_is_told_by_tenant_and_of_all() -> None:
    sums = {"groups": 10, "sizes-sizes": 40, "local-gains-gains": 4, "local-gains-sizes": 4}
    row = {n: v for n, v in ROW.items() if "auc" not in n} | sums
    row |= {"candidate-recall5": 0.95, "local-recall5": 0.9}
    more = row | {"tenant": "south", "held-out": 60.0, "candidate-recall5": 0.55}
    text = tenants_table([row, more], [], RECALL)
    assert "| tenant | queries | local only | federated | recall@5 local only |" in text
    assert "| north | 20 | 0.700 | 0.800 | 0.900 | 0.950 |" in text
    assert "| **all queries** | 80 | 0.350 | 0.400 | 0.900 | 0.650 |" in text
    assert "recall@1 before, 95 %" in rounds_table(LOG, RECALL)
    found = score([row], "local", RECALL)
    assert found.name == "recall@1" and found.low < found.gain < found.high
    metrics = {"bytes_to_tenants": 1, "bytes_from_tenants": 1, "round_seconds": 1}
    asked = FederatedParameters.model_validate({"group": "kind", "rounds": {"hidden": 8}})
    assert "an encoder of 8 hidden units to 16 dimensions" in told(metrics, asked)


def test_rounds_are_told_with_reasons_that_are_inert() -> None:
    told = rounds_table(LOG)
    assert "| 2 | 0.600 (0.361 to 0.809) | 1 | 4.2 |" in told, "Clopper and Pearson's interval"
    assert "<b>" not in told and "a | b" not in told


def test_the_gain_has_an_interval() -> None:
    found = score([ROW], "local")
    assert (found.champion, found.candidate, found.gain) == (0.7, 0.8, pytest.approx(0.1))
    assert found.low < 0.1 < found.high


def test_privacy_is_told_either_way() -> None:
    plain = FederatedParameters.model_validate({})
    assert "No differential privacy" in privacy_told([], LOG, plain)
    private = FederatedParameters.model_validate({"privacy": {"noise_multiplier": 2}})
    spent = [{"tenant": "north", "rounds": 3, "epsilon": 2.345}]
    told = privacy_told(spent, LOG, private)
    assert "| north | 3 | 2.35 | 8 |" in told and "not covered" in told
    assert "epsilon of the tenant so far" in told
    assert "It ended after 2 of 10 rounds: too few tenants had privacy left" in told
    whole = FederatedParameters.model_validate(
        {"privacy": {"noise_multiplier": 2}, "rounds": {"rounds": 2}}
    )
    assert "It ended" not in privacy_told(spent, LOG, whole)
    adaptive = {"noise_multiplier": 2, "adaptive_clipping": True}
    private = FederatedParameters.model_validate({"privacy": adaptive})
    told = privacy_told(spent, [LOG[0] | {"clipping_norm": 0.5}], private)
    assert "a norm of 1 at first and 0.5 at last" in told


def test_privacy_of_records_is_told_as_such() -> None:
    asked = {"noise_multiplier": 2, "privacy_unit": "record", "sampling_rate": 0.25}
    private = FederatedParameters.model_validate({"privacy": asked, "ranges": "0:1"})
    spent = [{"tenant": "north", "rounds": 3, "epsilon": 2.345}]
    told = privacy_told(spent, LOG, private)
    assert "| north | 3 | 2.35 | 8 |" in told and "of single records, not of whole" in told
    assert "epsilon of each record so far" in told
    assert "in each of 10 steps a round, gradients of rows" in told and "probability 0.25" in told
    whole = private.model_copy(update={"privacy": private.privacy.model_copy()})
    whole.privacy.sampling_rate = 1
    assert "gradients of all rows" in privacy_told(spent, LOG, whole)
    whole.privacy.privacy_unit = "tenant"
    assert "Central differential privacy of whole tenants" in privacy_told(spent, LOG, whole)


def test_what_the_server_saw_is_told_either_way() -> None:
    plain = FederatedParameters.model_validate({})
    assert "saw each tenant's own" in seen({}, plain)
    rounds = {"secure_aggregation": True, "minimum_tenants": 3}
    secure = FederatedParameters.model_validate({"rounds": rounds})
    told = seen({"clipping_range": 10.0, "quantisation_step": 1.8626e-8}, secure)
    assert "over 3 tenants or more" in told
    assert "from −10 to 10 in steps of 1.9e-08" in told


@pytest.mark.parametrize(
    ("rounds", "named"),
    [
        ({"strategy": "krum", "minimum_tenants": 3}, "secure_aggregation hides .* strategy krum"),
        ({"strategy": "median", "minimum_tenants": 3}, "strategy median needs; choose fedavg"),
        ({"strategy": "trimmed-mean", "minimum_tenants": 3}, "strategy trimmed-mean"),
        ({"minimum_tenants": 2}, "secure_aggregation needs minimum_tenants of at least 3"),
    ],
)
def test_what_cannot_be_summed_is_refused(rounds: dict[str, Any], named: str) -> None:
    FederatedParameters.model_validate({"rounds": rounds})
    with pytest.raises(ValidationError, match=named):
        FederatedParameters.model_validate({"rounds": rounds | {"secure_aggregation": True}})


def test_it_is_drawn(tmp_path: Path) -> None:
    draw(LOG, [ROW], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
