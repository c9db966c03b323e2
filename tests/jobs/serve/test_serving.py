"""A tiny model behind the official client: what it answers, records, and how it changes."""

import json
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from openai import OpenAI
from transformers import LlamaForCausalLM

from infra.contract import CANARY_SIDE, CHAMPION_SIDE
from tests.jobs.serve.conftest import FEW_REQUESTS, FEW_TOKENS, KEY, OTHER_KEY, Served
from tests.jobs.serve.models import merged

MESSAGES: Any = [{"role": "user", "content": "Say something"}]
BOUNDED = {"max_tokens": 12, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="session")
def client(served: Served) -> OpenAI:
    return served.client()


def post(served: Served, path: str, body: bytes, key: str = KEY) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    answer = httpx.post(f"{served.url}{path}", content=body, headers=headers, timeout=120)
    return answer.status_code, answer.json()


def get(served: Served, path: str) -> str:
    return httpx.get(f"{served.url}{path}", timeout=120).raise_for_status().text


def recomputed(served: Served, row: dict[str, Any], adapter: str) -> torch.Tensor:
    """Log-probabilities [tokens] of a recorded answer under the distribution that it was sampled
    from, by transformers."""
    base = served.folder / "base"
    plain = LlamaForCausalLM.from_pretrained
    model = merged(base, served.folder / adapter) if adapter else plain(base)
    prompt, answer = row["prompt_token_ids"], row["completion_token_ids"]
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    logits = logits / row["sampling"]["temperature"]
    top_p = row["sampling"]["top_p"]
    if top_p < 1:
        ordered, order = logits.softmax(-1).sort(-1, descending=True)
        beyond = (ordered.cumsum(-1) - ordered) >= top_p
        logits = logits.masked_fill(
            torch.zeros_like(logits).bool().scatter(-1, order, beyond), -math.inf
        )
    return logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None]).squeeze(-1)


def assert_ratios_are_one(served: Served, row: dict[str, Any], adapter: str) -> None:
    """That the importance ratio of every token is 1 for the policy that sampled it."""
    ratio = (recomputed(served, row, adapter) - torch.tensor(row["logprobs"])).exp()
    assert torch.allclose(ratio, torch.ones_like(ratio), atol=2e-3), ratio


def test_a_chat_is_answered_and_recorded(served: Served, client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="mine", messages=MESSAGES, temperature=0.8, top_p=0.9, seed=3, **BOUNDED
    )
    assert answer.model == "mine" and answer.usage and answer.usage.completion_tokens == 12
    row = served.row(f"{answer.id}/0")
    assert row["completion"] == answer.choices[0].message.content
    assert json.loads(row["prompt"]) == MESSAGES
    assert (row["tenant"], row["model"], row["model_version"]) == (KEY, "mine", "1")
    assert row["sampling"]["temperature"] == 0.8 and row["sampling"]["top_p"] == 0.9
    assert row["latency_ms"] > 0 and row["finish_reason"] == "length"
    assert_ratios_are_one(served, row, "adapter-1")


def test_a_stream_has_the_same_text_as_its_record(served: Served, client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="mine", messages=MESSAGES, stream=True, seed=5, **BOUNDED
    )
    parts = list(stream)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    row = served.row(f"{parts[0].id}/0")
    assert row["completion"] == text and len(row["logprobs"]) == 12
    assert_ratios_are_one(served, row, "adapter-1")


def test_choices_and_prompts_are_an_interaction_each(served: Served, client: OpenAI) -> None:
    answer = client.completions.create(
        model="mine", prompt=["ab", "cd"], n=2, logprobs=1, **BOUNDED
    )
    assert len(answer.choices) == 4
    for choice in answer.choices:
        row = served.row(f"{answer.id}/{choice.index}")
        assert row["completion"] == choice.text
        assert row["prompt"] == ("ab" if choice.index < 2 else "cd")
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs == pytest.approx(row["logprobs"])


def test_seed_stop_and_greedy_decoding_do_as_openai_says(served: Served, client: OpenAI) -> None:
    def text(**given: Any) -> str:
        return (
            client.completions.create(model="mine", prompt="abc", **BOUNDED | given).choices[0].text
        )

    first = text(seed=7)
    assert first == text(seed=7) and first != text(seed=8)
    greedy = text(temperature=0)
    assert greedy == text(temperature=0)
    assert text(temperature=0, stop=[greedy[3]]) == greedy[: greedy.index(greedy[3])]


def test_the_models_are_listed(served: Served, client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "mine"
    assert str(served.folder) not in model.model_dump_json()


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/chat/completions", b"{not json", 400, "JSON"),
        ("/v1/chat/completions", b'{"model": "mine"}', 400, "messages"),
        ("/v1/completions", b'{"model": "other", "prompt": "a"}', 404, "other"),
        ("/v1/completions", b'{"model": "mine", "prompt": "%s"}' % (b"a" * 999), 400, "256"),
        ("/v1/completions", b'{"prompt": "%s"}' % (b"a" * 300_000), 413, "200000"),
        ("/v1/completions", b'{"model": "mine", "prompt": "a", "n": 17}', 400, "16"),
        ("/v1/completions", b'{"prompt": "a", "use_beam_search": true}', 400, "beam"),
        ("/v1/feedback", b'{"id": "chatcmpl-1", "thumb": "up"}', 404, "no answer"),
        ("/v1/feedback", b'{"id": "chatcmpl-1", "thumb": "up", "stars": 3}', 400, "exactly one"),
        ("/v1/nothing", b"{}", 404, "Not Found"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_openais_form(
    served: Served, path: str, body: bytes, status: int, said: str
) -> None:
    before = len(served.rows())
    got, answer = post(served, path, body)
    assert got == status
    assert said in answer["error"]["message"] and answer["error"]["type"]
    assert len(served.rows()) == before


def test_a_wrong_key_opens_nothing(served: Served) -> None:
    with pytest.raises(openai.AuthenticationError, match="API key"):
        served.client("wrong").models.list()


def test_more_than_a_key_may_ask_for_is_refused_until_the_minute_is_over(served: Served) -> None:
    def answered(key: str) -> int:
        """How many of ten requests; each has 3 + 12 tokens."""
        with served.client(key) as client:
            for number in range(10):
                try:
                    client.completions.create(model="mine", prompt="abc", **BOUNDED)
                except openai.RateLimitError as error:
                    assert 0 < int(error.response.headers["Retry-After"]) <= 60
                    refused.append(error)
                    return number
        return 10

    refused: list[openai.RateLimitError] = []
    assert answered(FEW_REQUESTS) == 2, "they count when they enter"
    assert answered(FEW_TOKENS) == 2, "they count when the answer has ended"
    told = [error.body for error in refused]
    assert [(one["type"], one["code"]) for one in told] == [("rate_limit_error", 429)] * 2, told
    assert "2 requests a minute" in told[0]["message"]
    assert "30 tokens a minute" in told[1]["message"]
    assert answered(KEY) == 10, "another key has its own count"


def test_feedback_is_taken_once_and_from_its_tenant_only(served: Served, client: OpenAI) -> None:
    answer = client.completions.create(model="mine", prompt="a", **BOUNDED)
    body = json.dumps({"id": answer.id, "thumb": "down"}).encode()
    assert post(served, "/v1/feedback", body, OTHER_KEY)[0] == 404
    assert post(served, "/v1/feedback", body)[0] == 202
    assert post(served, "/v1/feedback", body)[0] == 409
    assert (
        post(served, "/v1/feedback", json.dumps({"id": answer.id, "stars": 2}).encode())[0] == 202
    )
    row = served.row(f"{answer.id}/0/thumb")
    assert row["interaction"] == f"{answer.id}/0" and row["value"] == -1


def test_health_and_metrics(served: Served, client: OpenAI) -> None:
    client.completions.create(model="mine", prompt="a", **BOUNDED)
    assert get(served, "/healthz") == "ok\n"
    told = json.loads(get(served, "/readyz"))
    assert told["ready"] and told["live"]["version"]
    assert "vllm:time_to_first_token_seconds_count" in get(served, "/metrics")


def test_a_client_that_goes_away_ends_its_generation(served: Served, client: OpenAI) -> None:
    stream = client.completions.create(
        model="mine", prompt="a", stream=True, max_tokens=240, extra_body={"ignore_eos": True}
    )
    answer = next(iter(stream)).id
    stream.close()
    client.completions.create(model="mine", prompt="a", **BOUNDED)
    assert not [row for row in served.rows() if row["key"].startswith(answer)]


def wait_for(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has_answered(served: Served, version: str) -> bool:
    return any(row.get("model_version") == version for row in served.rows())


def has_rows(served: Served, count: int) -> bool:
    return len(served.rows()) >= count


def serve_first(served: Served) -> dict[str, Any]:
    return served.serve("1", served.folder / "adapter-1" / "adapter")


def under_load(
    served: Served, change: Callable[[], Any], keys: tuple[str, ...] = (KEY,) * 4
) -> tuple[list[str], list[BaseException]]:
    """What a client of each key was answered, and what failed, while `change` was going on."""
    answers: list[str] = []
    failed: list[BaseException] = []
    over = threading.Event()

    def ask(key: str) -> None:
        with served.client(key) as client:
            while not over.is_set():
                try:
                    answers.append(
                        client.completions.create(
                            model="mine",
                            prompt="abc",
                            max_tokens=40,
                            extra_body={"ignore_eos": True},
                        ).id
                    )
                except Exception as error:
                    failed.append(error)

    clients = [threading.Thread(target=ask, args=(key,)) for key in keys]
    for one in clients:
        one.start()
    try:
        change()
    finally:
        over.set()
        for one in clients:
            one.join()
    return answers, failed


def test_adapters_are_swapped_under_load_and_each_answer_names_its_own(served: Served) -> None:
    def swap() -> None:
        for turn in range(6):
            number = 2 - turn % 2
            adapter = served.folder / f"adapter-{number}" / "adapter"
            state = served.serve(f"{number}-{turn}", adapter)
            version = f"{number}-{turn}"
            assert state["live"]["version"] == version and state["error"] is None
            wait_for(partial(has_answered, served, version))
        assert serve_first(served)["live"]["version"] == "1"

    answers, failed = under_load(served, swap)
    assert not failed
    rows = [served.row(f"{answer}/0") for answer in answers]
    assert len({row["model_version"] for row in rows}) >= 3
    for row in rows:
        assert_ratios_are_one(served, row, f"adapter-{row['model_version'][0]}")


def test_an_adapter_that_is_broken_leaves_the_old_one_answering(
    served: Served, client: OpenAI, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 8, "peft_type": "LORA"}')
    state = served.serve("9", tmp_path)
    assert state["refused"]["version"] == "9" and "cannot be served" in state["error"]
    assert state["live"]["version"] == "1"
    assert json.loads(get(served, "/readyz"))["refused"]["version"] == "9"
    answer = client.completions.create(model="mine", prompt="a", **BOUNDED)
    assert served.row(f"{answer.id}/0")["model_version"] == "1"
    assert serve_first(served)["error"] is None


def test_a_canary_answers_its_share_beside_a_base_alone(served: Served) -> None:
    adapter = served.folder / "adapter-2" / "adapter"

    def split() -> None:
        for share in (0.0, 0.25, 1.0):
            state = served.serve("base", None, adapter, share)
            assert (state["canary"]["version"], state["share"]) == ("2", share), state
            wait_for(partial(has_rows, served, len(served.rows()) + 6))
        assert served.serve("base", None)["canary"] is None

    keys = (CHAMPION_SIDE, CANARY_SIDE, KEY)
    try:
        answers, failed = under_load(served, split, keys)
    finally:
        assert serve_first(served)["error"] is None
    assert not failed
    by = {key: set[str]() for key in keys}
    for row in (served.row(f"{answer}/0") for answer in answers):
        by[row["tenant"]].add(row["model_version"])
        if row["model_version"] != "1":  # before the first order
            made = "adapter-2" if row["model_version"] == "2" else ""
            assert_ratios_are_one(served, row, made)
    assert by[CHAMPION_SIDE] == {"1", "base"}
    assert by[CANARY_SIDE] >= {"2"} and by[KEY] >= {"base", "2"}


def test_a_canary_that_is_broken_leaves_the_champion_answering(
    served: Served, client: OpenAI, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 8, "peft_type": "LORA"}')
    state = served.serve("1", served.folder / "adapter-1" / "adapter", tmp_path, 0.5)
    assert state["refused"]["version"] == "2" and state["live"]["version"] == "1"
    answer = client.completions.create(model="mine", prompt="a", **BOUNDED)
    assert served.row(f"{answer.id}/0")["model_version"] == "1"
    assert serve_first(served)["canary"] is None
