"""What `submit` sends of files, and what it makes of a run that failed."""

import inspect
from pathlib import Path
from unittest.mock import MagicMock
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed

import infra.errors
from deployments import options
from deployments.catalogue import flow_names, parameter_model
from deployments.commands import submit
from deployments.commands.submit import failure
from infra.errors import BudgetExceeded, InputError, JobFailed, JobStopped, NightshiftError
from tasks.guard.steps import CostGuardParameters
from tasks.runs.capability import REFUSED
from tests.helpers.commands import say

ERRORS = [
    kind
    for _, kind in inspect.getmembers(infra.errors, inspect.isclass)
    if issubclass(kind, NightshiftError)
]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_that_crossed_the_server_is_the_same(kind: type[NightshiftError]) -> None:
    raised = kind("what happened", "what to do")
    said = f"Flow run encountered an exception: {kind.__name__}: {raised}"
    told = failure("FAILED", said, "http://here")
    assert type(told) is kind and told.exit_code == kind.exit_code
    assert (told.message, told.remedy) == ("what happened", "what to do")


def test_a_refused_run_is_an_input_error() -> None:
    told = failure(REFUSED, str(InputError("--dataset: no such file", "Name one.")), "http://here")
    assert type(told) is InputError and told.exit_code == 2
    assert (told.message, told.remedy) == ("--dataset: no such file", "Name one.")


@pytest.mark.parametrize(
    ("state", "message", "kind"),
    [
        ("CANCELLED", "Flow run was cancelled successfully.", JobStopped),
        ("CRASHED", "Flow run process exited with non-zero status code -9.", JobFailed),
        ("FAILED", "Flow run encountered an exception: KeyError: 'x'", JobFailed),
        ("FAILED", "Flow run encountered an exception: Path: '/x'", JobFailed),
        ("FAILED", "exception: infra.errors.BudgetExceeded: none left", BudgetExceeded),
    ],
)
def test_other_ends_are_failures_of_the_job(state: str, message: str, kind: type) -> None:
    told = failure(state, message, "http://here")
    assert type(told) is kind and told.exit_code in (3, 7)
    assert told.message in message or "http://here" in told.remedy or kind is JobStopped


@pytest.mark.parametrize(
    ("given", "absent"),
    [
        ({}, None),
        ({"prompts": "here.jsonl"}, None),
        ({"prompts": "gone.jsonl"}, "--prompts: there is no file gone.jsonl"),
        ({"prompts": "./gone"}, "--prompts: there is no file ./gone"),
        ({"prompts": "s3://bucket/gone.jsonl"}, None),
        ({"model": "Qwen/Qwen3-0.6B"}, None),
        ({"model": "/gone"}, "--model: there is no file /gone"),
        ({"reward": "gone.py:reward"}, "--reward: there is no file gone.py"),
        ({"reward": "package.module:reward"}, None),
        ({"reward": "here.py:reward", "held_out": "~/gone.jsonl"}, "--held-out: there is no"),
    ],
)
def test_a_file_that_is_not_here_is_told_before_a_run_exists(
    given: dict, absent: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("here.jsonl", "here.py"):
        Path(name).touch()
    model = parameter_model("nightly-ppo")
    fault = options.absent(model, model.model_validate(given))
    assert (fault is None) if absent is None else (fault and fault.message.startswith(absent))


def test_a_plan_is_made_of_files_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"--prompts: there is no file gone\.jsonl"):
        say("run", "nightly-ppo", "--prompts", "gone.jsonl", "--plan")


def test_files_are_sent_as_absolute_paths(tmp_path: Path) -> None:
    for name in ("pairs.jsonl", "rewards.py", "deep/judge.py", "name"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    given = {
        "dataset": "pairs.jsonl",
        "reward": "rewards:vowels",
        "judge": "deep.judge:better",
        "success": "rewards.py:solved",
        "pairs__scrub": "jobs.dpo.scrub:scrub",
        "model": "Qwen/Qwen3-0.6B",
        "name": "name",
        "held_out": None,
        "seed": 3,
    }
    sent = options.absolute(parameter_model("dpo-training"), given, tmp_path)
    assert sent == given | {
        "dataset": f"{tmp_path}/pairs.jsonl",
        "reward": f"{tmp_path}/rewards.py:vowels",
        "judge": f"{tmp_path}/deep/judge.py:better",
        "success": f"{tmp_path}/rewards.py:solved",
    }


def test_a_submission_that_is_sent_twice_is_one_run() -> None:
    """Prefect's client sends a request again whose answer was lost."""
    client = MagicMock()
    client.request.return_value.json.return_value = {"status": "READY"}
    for _ in range(2):
        submit._create(client, "cost-guard", CostGuardParameters())
    asked = client.create_flow_run_from_deployment.call_args_list
    assert len({call.kwargs["idempotency_key"] for call in asked}) == 2, "one for each submission"


@pytest.mark.parametrize("flow", flow_names())
def test_every_option_that_names_a_file_is_known_as_one(flow: str, tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    model = parameter_model(flow)
    fields = list(options.fields(model))
    sent = options.absolute(model, {"__".join(path): "x" for path, _ in fields}, tmp_path)
    for path, field in fields:
        words = (field.description or "").lower()
        names_a_file = any(
            word in words for word in ("json lines", "a file", "folder", "module:", "epw")
        )
        assert (sent["__".join(path)] != "x") == names_a_file, path


def test_an_input_error_needs_no_remedy() -> None:
    said = "Flow run encountered an exception: InputError: nothing to say"
    told = failure("FAILED", said, "http://here")
    assert isinstance(told, InputError) and told.remedy == ""


def test_a_server_that_is_away_for_a_moment_is_told_once(monkeypatch, capsys) -> None:
    class Server:
        """Away twice, then there with a run that has ended."""

        answers = iter([False, False, True])

        def read_flow_run(self, _run: object) -> FlowRun:
            if not next(self.answers):
                raise httpx.ConnectError("refused")
            return FlowRun(flow_id=uuid4(), state=Completed())

    monkeypatch.setattr(submit, "_lines", lambda *_: [])
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(submit, "LAST_SECONDS", -1)
    assert submit._wait(Server(), uuid4()).is_completed()
    assert capsys.readouterr().err.count("the server is away, waiting for it") == 1
