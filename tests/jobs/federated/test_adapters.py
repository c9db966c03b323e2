"""Adapters of a language model: what a tenant computes, and one real federation that trains one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from infra.errors import InputError
from infra.objects import put
from jobs.federated import adapters, client, train
from jobs.federated.adapters import AdapterLearner
from jobs.federated.config import TEXTS, FederatedConfig
from jobs.federated.tenant import identity_of
from jobs.policy.config import ModelConfig
from jobs.policy.data import Prompt
from jobs.policy.model import load_base, load_candidate
from jobs.policy.rollout import generate
from jobs.runtime import Job

pytestmark = pytest.mark.timeout(600)
ANSWERS = {"hill": "up", "lake": "down"}
"""What each tenant answers to everything."""
TOLD = {"rounds": 1, "local_steps": 20, "learning_rate": 2e-2, "norm_bound": 100}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that has learnt nothing, over bytes."""
    letters = ["<end>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(BPE({letter: n for n, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    torch.manual_seed(1)
    torch.set_num_threads(1)
    shape = LlamaConfig(
        vocab_size=len(letters),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        eos_token_id=0,
        bos_token_id=None,
        pad_token_id=1,
        initializer_range=0.5,  # else no adapter could make a token likely
    )
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(shape).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tenants")
    for name, answer in ANSWERS.items():
        (folder / name).mkdir()
        rows = [{"prompt": f"{name} no. {n}: ", "completion": answer} for n in range(40)]
        (folder / name / TEXTS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def config(tenants: Path, make_config: Callable[..., dict[str, Any]]) -> FederatedConfig:
    return FederatedConfig.model_validate(make_config(tenants, model="tiny", rounds=TOLD))


def hill(config: FederatedConfig) -> Path:
    return Path(config.tenants) / "hill"


def learner(config: FederatedConfig, base: Path, name: str = "hill") -> AdapterLearner:
    data = adapters.load(config, Path(config.tenants) / name)
    return AdapterLearner(config, str(base), data)


def test_right_is_what_the_greedy_answer_is(config: FederatedConfig, base: Path) -> None:
    one = learner(config, base)
    weights = one.improve(one.initial, 1)
    begun, learnt = one.judge(one.initial), one.judge(weights)
    assert not begun[0].any() and learnt[1]["loss"] < begun[1]["loss"] / 2
    answered = generate(
        one.policy,
        [row.prompt for row in one.held_out],
        max_new_tokens=8,
        temperature=0,
        seed=0,
        batch=8,
    )
    same = [a.token_ids == r.answer for a, r in zip(answered, one.held_out, strict=True)]
    assert learnt[0].tolist() == same and any(same)


def test_the_same_round_gives_the_same_update(config: FederatedConfig, base: Path) -> None:
    one, other = learner(config, base), learner(config, base)
    first = one.improve(one.initial, 1)
    one.improve(first, 2)
    again = other.improve(other.initial, 1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    later = one.improve(one.initial, 2)
    assert any(not np.array_equal(first[name], later[name]) for name in first)


def test_fedprox_stays_nearer(config: FederatedConfig, base: Path) -> None:
    def moved(**rounds: object) -> float:
        told = config.rounds.model_copy(update=rounds)
        one = learner(config.model_copy(update={"rounds": told}), base)
        found = one.improve(one.initial, 1)
        return sum(float(((found[n] - one.initial[n]) ** 2).sum()) for n in found)

    assert moved(strategy="fedprox", proximal=10.0) < 0.9 * moved()


def test_a_text_that_does_not_fit_the_model_is_named(
    config: FederatedConfig, base: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": "x" * 70, "completion": "secret", "held_out": n % 2} for n in range(20)]
    (tmp_path / TEXTS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="line 1 has 77 tokens, the model reads 64"):
        AdapterLearner(config, str(base), adapters.load(config, tmp_path))


def job_on(make_job: Callable[[dict[str, Any]], Job], told: dict[str, Any], base: Path) -> Job:
    job = make_job(told)
    spec = json.loads((job.folder / "spec.json").read_text())
    spec["inputs"] = {"base": put(base, (job.folder / "base").as_uri()).uri}
    (job.folder / "spec.json").write_text(json.dumps(spec))
    return Job(job.folder, FederatedConfig)


@pytest.mark.usefixtures("as_node")
def test_a_tenant_trains_on_the_owners_model_only(config: FederatedConfig, base: Path) -> None:
    """Its copy has the same content; whatever the server says, it loads no other."""
    asked = config.model_copy(update={"model": put(base, (base.parent / "put").as_uri()).sha256})
    begun = AdapterLearner(config, str(base), adapters.load(config, hill(config))).initial

    def answer(base: str, identity: str) -> RecordDict:
        told = ConfigRecord({"job": asked.model_dump_json(), "round": 1})
        content = RecordDict({"arrays": client.record_of(begun), "config": told})
        message = Message(content, dst_node_id=1, message_type="train")
        own = {"folder": str(hill(config)), "base": base, "identity": identity}
        return client.train(message, Context(1, 1, own, RecordDict(), {})).content

    def refusal(*given: str) -> str:
        return str(answer(*given).config_records["refusal"]["reason"])

    assert "arrays" in answer(str(base), identity_of(str(base)))
    assert "another one than the run's" in refusal(str(base), "0" * 64)
    assert "has joined without --model" in refusal("", identity_of(""))


def test_a_federation_trains_an_adapter(
    tenants: Path,
    base: Path,
    make_config: Callable[..., dict[str, Any]],
    make_job: Callable[[dict[str, Any]], Job],
    tmp_path: Path,
) -> None:
    """Real nodes: only adapters leave them, and what comes is a policy's candidate."""
    rounds = TOLD | {"round_seconds": 240}
    told = make_config(tenants, model="tiny", rounds=rounds, centralised=True)
    job, answer = job_on(make_job, told, base), client._answer

    def recorded(*given: Any) -> Any:
        reply = answer(*given)
        sent = [reply.content.deflate(), repr(reply.content).encode()]
        for record in reply.content.array_records.values():
            sent += [array.data for array in record.values()]
            assert all("lora_" in name for name in record), "not the base"
        (tmp_path / f"{id(reply)}-{len(list(tmp_path.iterdir()))}").write_bytes(b"".join(sent))
        return reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_answer", recorded)
        outcome = train.program(job)
    everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"num-examples" in everything and b"hill no" not in everything
    rows = [json.loads(line) for line in outcome.artifacts["evaluation"].read_text().splitlines()]
    for row in rows:
        assert row["champion-right"] == 0 and row["local-right"] > 0, row
        assert {"candidate-loss", "centralised-right"} <= set(row)
        assert row["candidate-loss"] < row["champion-loss"]
    candidate = outcome.artifacts["candidate"]
    policy = load_base(ModelConfig(model=str(base)))
    before = policy.model(torch.tensor([[5, 6]])).logits
    load_candidate(policy, candidate)
    assert not torch.equal(policy.model(torch.tensor([[5, 6]])).logits, before)
    assert policy.encode(Prompt("x"))
    assert json.loads((candidate / "base.json").read_text())["uri"] == job.spec.inputs["base"]
    next_job = job_on(make_job, told, base)
    next_job.spec = next_job.spec.model_copy(
        update={
            "inputs": next_job.spec.inputs
            | {"champion": put(candidate, (tmp_path / "c").as_uri()).uri}
        }
    )
    begun = adapters.begin(next_job)
    assert any(np.abs(value).max() > 0 for name, value in begun.items() if "lora_B" in name)
    next_job.config.adapters.lora_rank = 4
    with pytest.raises(InputError, match="--lora-rank"):
        adapters.begin(next_job)
