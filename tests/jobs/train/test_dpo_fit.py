"""The plan keeps the effective batch on every machine, and says why."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import InputError
from jobs.dpo import fit as fitting
from jobs.dpo import train
from jobs.dpo.config import DPOConfig
from jobs.dpo.fit import Fit, Machine, Shape, fit

GIB = 2**30
BIG = Shape(parameters=7_000_000_000, layers=32, width=4096, vocabulary=32_000)
SMALL = Shape(parameters=1_000_000, layers=4, width=128, vocabulary=500)


def plan(kind="cuda", free=80, shape=BIG, tokens=1024, devices=1, bf16=True, **config) -> Fit:
    machine = Machine(kind, int(free * GIB), bf16, devices)
    return fit(machine, shape, DPOConfig.model_validate(config), tokens)


def test_a_large_gpu_needs_no_sacrifice():
    found = plan(free=139)
    assert (found.dtype, found.quantised) == ("bfloat16", False)
    assert found.micro_batch * found.accumulation == 16
    assert plan(kind="unified", free=120).dtype == "bfloat16"


def test_less_memory_costs_speed_first_and_precision_last():
    sizes = {free: plan(free=free) for free in (139, 48, 24, 10)}
    assert sizes[24].gradient_checkpointing and not sizes[24].quantised
    assert sizes[10].quantised and "4 bits" in sizes[10].reasons[0]
    assert all(one.micro_batch * one.accumulation == 16 for one in sizes.values())
    assert not plan(free=10, quantise="off").quantised


def test_a_cpu_trains_small_models_in_float32_and_never_quantises():
    found = plan(kind="cpu", free=4, shape=SMALL)
    assert (found.dtype, found.quantised, found.micro_batch) == ("float32", False, 16)
    assert plan(kind="cpu", free=20, bf16=False).dtype == "float32"
    assert plan(kind="cpu", free=20).dtype == "bfloat16"


def test_several_gpus_share_the_batch_or_say_that_they_cannot():
    found = plan(devices=8, shape=SMALL)
    assert (found.processes, found.micro_batch, found.accumulation) == (8, 2, 1)
    with pytest.raises(InputError, match=r"--effective-batch 16 .* 3 processes"):
        plan(devices=3)


def test_what_is_asked_for_is_done():
    found = plan(micro_batch=2, gradient_checkpointing="on", quantise="on", dtype="float32")
    assert (found.micro_batch, found.accumulation, found.dtype) == (2, 8, "float32")
    assert found.gradient_checkpointing and found.quantised


@given(
    kind=st.sampled_from(["cuda", "unified", "cpu"]),
    free=st.floats(0.01, 200),
    effective=st.integers(1, 64),
    tokens=st.integers(8, 32_000),
    shape=st.sampled_from([SMALL, BIG]),
)
def test_the_effective_batch_is_kept_however_often_memory_runs_out(
    kind, free, effective, tokens, shape
):
    found = plan(kind, free, shape, tokens, effective_batch=effective)
    while True:
        assert found.micro_batch * found.accumulation * found.processes == effective
        assert found.reasons
        before = found.micro_batch
        if before == 1:
            break
        found = found.halved()
        assert found.micro_batch <= before // 2
    with pytest.raises(InputError, match="--max-tokens"):
        found.halved()


def test_a_plan_is_kept(tmp_path):
    found = plan()
    found.save(tmp_path / "fit.json")
    assert Fit.load(tmp_path / "fit.json") == found


def test_this_machine_is_measured():
    found = fitting.machine()
    assert found.free > 0 and found.devices >= 1
    assert (found.kind == "cpu") == (not torch.cuda.is_available())


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired"])
def test_losses_over_sorted_batches_are_refused_where_the_batch_is_divided(loss):
    config = DPOConfig.model_validate({"loss": loss})
    whole = plan(free=80, shape=SMALL, loss=loss)
    train.require_whole_batch(config, whole)
    divided = (whole.halved(), plan(shape=SMALL, devices=2, loss=loss))
    for part in divided:
        with pytest.raises(InputError, match=f"--loss {loss} sorts .* 8 pairs of 16"):
            train.require_whole_batch(config, part)
        train.require_whole_batch(DPOConfig.model_validate({}), part)
