import pytest
import torch
from transformers import DynamicCache

from infra.errors import InputError
from jobs.policy.data import Prompt, Trajectory
from jobs.policy.model import load_base
from jobs.policy.rollout import generate, roll_out
from jobs.policy.scoring import chunks, score
from jobs.ppo.config import PPOConfig
from jobs.ppo.policy import load_policy

PROMPTS = ["a", "what is this", "four", "yes or no?", "b"]


@pytest.fixture
def policy(base):
    """With an adapter and a value head that are not the beginning's zeros."""
    torch.manual_seed(0)
    policy = load_policy(PPOConfig(model=str(base), reward="none"), None)
    for parameter in (*policy.model.parameters(), *policy.value_head.parameters()):
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    policy.stop_ids = list(range(0, 258, 20))  # so that some completions end early
    return policy


def ids(policy):
    return [policy.encode(Prompt(text)) for text in PROMPTS]


def sample(policy, **options):
    settings = {"max_new_tokens": 24, "temperature": 0.7, "seed": 3, "batch": 8, "samples": 3}
    return generate(policy, ids(policy), **{**settings, **options})


def trajectories(policy, completions, samples):
    asked = [prompt for prompt in ids(policy) for _ in range(samples)]
    return [
        Trajectory(
            prompt="",
            completion="",
            prompt_token_ids=prompt,
            completion_token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            reward=0,
        )
        for prompt, completion in zip(asked, completions, strict=True)
    ]


def test_logprobs_and_values_are_those_of_the_policy(policy):
    completions = sample(policy, samples=3)
    rows = trajectories(policy, completions, 3)
    assert len({len(row.completion_token_ids) for row in rows}) > 1  # some ended early
    with torch.no_grad():
        for part in chunks([row.length for row in rows], 64):
            scored = score(policy, [rows[i] for i in part], 0.7)
            behaviour = torch.tensor([p for i in part for p in rows[i].logprobs])
            values = torch.tensor([v for i in part for v in completions[i].values])
            assert (scored.logprobs - behaviour).abs().max() < 1e-4
            assert (scored.values - values).abs().max() < 1e-4
            assert values.abs().max() > 0.01


def test_scores_are_those_of_a_plain_forward_pass(policy):
    rows = trajectories(policy, sample(policy, samples=1), 1)
    with torch.no_grad():
        scored = score(policy, rows, 0.7).logprobs.split([len(r.logprobs) for r in rows])
        for row, found in zip(rows, scored, strict=True):
            whole = torch.tensor([row.prompt_token_ids + row.completion_token_ids])
            logits = policy.model(input_ids=whole).logits[0] / 0.7
            start = len(row.prompt_token_ids)
            expected = logits.log_softmax(-1)[start - 1 : -1].gather(-1, whole[0, start:, None])
            assert (found - expected.squeeze(-1)).abs().max() < 1e-4


def test_rollouts_leave_the_base_bit_for_bit(policy):
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    sample(policy)
    for name, value in policy.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_completions_end_with_the_stop_token_or_the_limit(policy):
    completions = sample(policy, samples=8)
    assert {c.ended for c in completions} == {True, False}
    for completion in completions:
        stops = [token in policy.stop_ids for token in completion.token_ids]
        assert not any(stops[:-1])
        assert stops[-1] == completion.ended
        assert completion.ended or len(stops) == 24


def test_a_seed_fixes_the_completions_and_another_changes_them(policy):
    assert sample(policy) == sample(policy)
    assert sample(policy) != sample(policy, seed=4)


def test_greedy_is_what_transformers_generates(policy):
    found = sample(policy, temperature=0, samples=1)
    for prompt, completion in zip(ids(policy), found, strict=True):
        tokens = torch.tensor([prompt])
        expected = policy.model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=24,
            pad_token_id=0,
            eos_token_id=policy.stop_ids,
            past_key_values=DynamicCache(config=policy.model.config),
        )
        assert completion.token_ids == expected[0, len(prompt) :].tolist()


def test_tokens_are_drawn_from_the_distribution(policy):
    prompt = ids(policy)[1]
    drawn = generate(
        policy, [prompt], samples=20_000, max_new_tokens=1, temperature=0.7, seed=0, batch=20_000
    )
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([prompt])).logits[0, -1] / 0.7
    counts = torch.bincount(
        torch.tensor([c.token_ids[0] for c in drawn]), minlength=logits.shape[0]
    )
    probability = logits.softmax(-1)
    spread = (20_000 * probability * (1 - probability)).sqrt()
    assert ((counts - 20_000 * probability).abs() < 5 * spread + 1).all()


def test_a_prompt_beyond_the_context_is_named(policy):
    prompts = [Prompt("short", line=1), Prompt("long " * 20, line=9)]
    with pytest.raises(InputError, match=r"line 9 has 100 tokens; with 24 .* context of 64"):
        roll_out(
            policy,
            prompts,
            lambda *_: [0.0, 0.0],
            model_version="0",
            max_new_tokens=24,
            temperature=1,
            seed=0,
            batch=2,
        )


def test_messages_without_a_chat_template(policy):
    with pytest.raises(InputError, match="no chat template"):
        policy.encode(Prompt([{"role": "user", "content": "hi"}], line=2))


def test_messages_with_a_chat_template(policy):
    policy.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    found = policy.encode(Prompt([{"role": "user", "content": "hi"}]))
    assert policy.decode(found) == "<user>hi<assistant>"


def test_an_unknown_model_is_one_clear_error(tmp_path):
    for where in (str(tmp_path / "nothing"), str(tmp_path)):
        with pytest.raises(InputError, match=r"--model .* cannot be loaded"):
            load_base(PPOConfig(model=where, reward="none"))
