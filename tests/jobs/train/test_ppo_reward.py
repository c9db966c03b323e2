import numpy as np
import pytest
import torch
from transformers import TrainerState

from infra.errors import InputError
from jobs.policy.data import Prompt
from jobs.policy.reward import load_reward

PROMPTS = [Prompt("a", {"n": 1}, 1), Prompt("b", {"n": 2, "m": 0}, 5)]


def load(tmp_path, body, name="f"):
    path = tmp_path / "user_reward.py"
    path.write_text(body)
    return load_reward(f"{path}:{name}")


def test_the_function_gets_what_it_takes(tmp_path):
    taken = "def f(completions, n):\n    return [len(c) + k for c, k in zip(completions, n)]"
    assert load(tmp_path, taken)(PROMPTS, ["", "xy"]) == [1.0, 4.0]
    everything = "def f(**all):\n    return [all['m'] == [None, 0], sorted(all) == ['completions', "
    everything += "'log_extra', 'log_metric', 'm', 'n', 'prompts', 'trainer_state']]"
    assert load(tmp_path, everything)(PROMPTS, ["", ""]) == [1.0, 1.0]


def test_numpy_numbers_are_numbers(tmp_path):
    found = load(tmp_path, "import numpy\ndef f(completions): return numpy.float32([1, 2])")
    assert found(PROMPTS, ["", ""]) == [1.0, 2.0]
    assert np.isfinite(found(PROMPTS, ["", ""])).all()


def test_chat_prompts_give_messages_as_trl_does(tmp_path):
    chat = [Prompt([{"role": "user", "content": "hi"}])]
    body = "def f(prompts, completions): return [prompts[0][0]['content'] == 'hi' and "
    body += "completions[0][0]['content'] == 'yes']"
    assert load(tmp_path, body)(chat, ["yes"]) == [1.0]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("def f(**_): raise KeyError('teeth')", r"raised KeyError: 'teeth' \(line 1 of .*user_"),
        ("def f(**_): return [1.0]", "returned 1 rewards for 2"),
        ("def f(completions, must, n=1): return [1, 2]", "reads must, which the prompts have not"),
        ("def f(**_): return 0.5", "returned float"),
        ("def f(**_): return [0, float('nan')]", r"returned nan for row 1 \(prompt line 5"),
        ("def f(**_): return [0, float('inf')]", "returned inf for row 1"),
        ("def f(**_): return [None, 0]", r"returned None for row 0 \(prompt line 1"),
        ("def f(**_): return ['1', '2']", "returned '1' for row 0"),
        ("def f(**_): return b'12'", "returned bytes, not a list"),
        ("def f(**_): return [10**400, 1]", r"returned 1000+ for row 0"),
        ("def f(**_):\n yield 1.0\n raise KeyError('teeth')", "raised KeyError: 'teeth'"),
        ("import itertools\ndef f(**_): return itertools.repeat(1.0)", "returned 3 rewards for 2"),
        ("import sys\ndef f(**_): sys.exit(75)", "raised SystemExit: 75"),
    ],
)
def test_a_bad_reward_is_one_clear_error(tmp_path, body, problem):
    reward = load(tmp_path, body)
    with pytest.raises(InputError, match=problem) as caught:
        reward(PROMPTS, ["x", "y"])
    assert "--reward" in str(caught.value)
    assert ":f" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("no_such_module:f", "cannot be imported"),
        ("missing.py:f", "no file"),
        ("json:no_such_function", "no function 'no_such_function'"),
        ("/no/such/model", "cannot be loaded"),
    ],
)
def test_a_wrong_name_is_one_clear_error(spec, problem):
    with pytest.raises(InputError, match=problem) as caught:
        load_reward(spec)
    assert "--reward" in str(caught.value)


def test_a_file_that_fails_to_import(tmp_path):
    with pytest.raises(InputError, match="ZeroDivisionError"):
        load(tmp_path, "1 / 0")


def test_a_function_that_seeds_torch_does_not_repeat_the_samples(tmp_path):
    seeding = load(tmp_path, "import torch\ndef f(**_):\n torch.manual_seed(0)\n return [0, 0]")
    torch.manual_seed(7)
    undisturbed = torch.rand(2).tolist()
    torch.manual_seed(7)
    drawn = []
    for _ in range(2):
        seeding(PROMPTS, ["", ""])
        drawn.append(torch.rand(1).item())
    assert drawn == undisturbed
    noise = load(tmp_path, "import torch\ndef f(**_): return torch.rand(2)")
    assert noise(PROMPTS, ["", ""]) != noise(PROMPTS, ["", ""])


def test_a_file_that_ends_the_process_when_imported(tmp_path):
    with pytest.raises(InputError, match="cannot be imported: SystemExit: 0"):
        load(tmp_path, "import sys\nsys.exit(0)\ndef f(**_): return [1]")


def test_a_folder_of_modules_and_a_file_without_suffix(tmp_path):
    (tmp_path / "beside.py").write_text("VALUE = 0.25")
    (tmp_path / "mine.py").write_text("import beside\ndef f(**_): return [beside.VALUE]")
    assert load_reward("mine:f", tmp_path)(PROMPTS[:1], [""]) == [0.25]
    assert load_reward("mine.py:f", tmp_path)(PROMPTS[:1], [""]) == [0.25]
    (tmp_path / "artefact").write_text("def f(**_): return [0.75]")
    assert load_reward("any.py:f", tmp_path / "artefact")(PROMPTS[:1], [""]) == [0.75]


def test_trls_whole_signature_is_given(tmp_path):
    body = "def f(completions, completion_ids, trainer_state, log_extra, log_metric):\n"
    body += "    log_metric('seen', 1.0); log_extra('column', completions)\n"
    body += "    return [len(ids) + trainer_state.global_step for ids in completion_ids]"
    reward = load(tmp_path, body)
    assert reward(PROMPTS, ["x", "yy"], [[1], [2, 3]]) == [1.0, 2.0]
    later = TrainerState(global_step=5, max_steps=9)
    assert reward(PROMPTS, ["x", "yy"], [[1], [2, 3]], later) == [6.0, 7.0]
    with pytest.raises(InputError, match="completion_ids"):
        reward(PROMPTS, ["x", "yy"])


def test_a_coroutine_function_is_awaited(tmp_path):
    body = "async def f(completions): return [float(len(c)) for c in completions]"
    assert load(tmp_path, body)(PROMPTS, ["x", "yy"]) == [1.0, 2.0]


def test_what_a_function_changes_is_its_own(tmp_path):
    body = """
def f(prompts, completions, answers):
    for messages, answer, wanted in zip(prompts, completions, answers):
        messages.append(answer[0])
        messages[0]["content"] = ""
        wanted.pop()
    return [float(len(messages)) for messages in prompts]
"""
    chats = [Prompt([{"role": "user", "content": t}], {"answers": [1, 2]}, 1) for t in "ab"]
    reward = load(tmp_path, body)
    assert [reward(chats, ["x", "yy"]) for _ in range(3)] == [[2.0, 2.0]] * 3
    assert [prompt.content for prompt in chats] == [[{"role": "user", "content": t}] for t in "ab"]
    assert [prompt.columns for prompt in chats] == [{"answers": [1, 2]}] * 2


@pytest.mark.parametrize(
    "returned", ["{n: 0.25 for n, _ in enumerate(completions)}", "{0.5, 0.25}", "'10'"]
)
def test_rewards_without_an_order_are_refused(tmp_path, returned):
    with pytest.raises(InputError, match="not a list of floats"):
        load(tmp_path, f"def f(completions): return {returned}")(PROMPTS, ["x", "yy"])


def test_rows_of_one_number_are_numbers(tmp_path):
    body = "import torch\ndef f(completions): return torch.ones(len(completions), 1)"
    assert load(tmp_path, body)(PROMPTS, ["x", "yy"]) == [1.0, 1.0]
    assert load(tmp_path, "def f(completions): return [True, 3]")(PROMPTS, ["", ""]) == [1.0, 3.0]
