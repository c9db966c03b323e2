import numpy as np
import pytest

from infra.errors import InputError
from jobs.ppo.data import Prompt
from jobs.ppo.reward import load_reward

PROMPTS = [Prompt("a", {"n": 1}, 1), Prompt("b", {"n": 2, "m": 0}, 5)]


def load(tmp_path, body, name="f"):
    path = tmp_path / "user_reward.py"
    path.write_text(body)
    return load_reward(f"{path}:{name}")


def test_the_function_gets_what_it_takes(tmp_path):
    taken = "def f(completions, n):\n    return [len(c) + k for c, k in zip(completions, n)]"
    assert load(tmp_path, taken)(PROMPTS, ["", "xy"]) == [1.0, 4.0]
    everything = "def f(**all):\n    return [all['m'] == [None, 0], sorted(all) == "
    everything += "['completions', 'm', 'n', 'prompts']]"
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
        ("def f(**_): return 0.5", "returned float"),
        ("def f(**_): return [0, float('nan')]", r"returned nan for row 1 \(prompt line 5"),
        ("def f(**_): return [0, float('inf')]", "returned inf for row 1"),
        ("def f(**_): return [None, 0]", r"returned None for row 0 \(prompt line 1"),
        ("def f(**_): return ['1', '2']", "returned '1' for row 0"),
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


def test_a_folder_of_modules_and_a_file_without_suffix(tmp_path):
    (tmp_path / "beside.py").write_text("VALUE = 0.25")
    (tmp_path / "mine.py").write_text("import beside\ndef f(**_): return [beside.VALUE]")
    assert load_reward("mine:f", tmp_path)(PROMPTS[:1], [""]) == [0.25]
    assert load_reward("mine.py:f", tmp_path)(PROMPTS[:1], [""]) == [0.25]
    (tmp_path / "artefact").write_text("def f(**_): return [0.75]")
    assert load_reward("any.py:f", tmp_path / "artefact")(PROMPTS[:1], [""]) == [0.75]
