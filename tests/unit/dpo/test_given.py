"""What a user gives beside the shape: maps, hubs, held-out pairs, limits of the judge."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.contract import Artifact, JobResult
from jobs.dpo.config import PairChoice
from jobs.dpo.data import check_file, holds_preferences
from jobs.dpo.files import readable_here
from tasks.dpo.parameters import DPOTrainingParameters, PreferenceParameters
from tasks.dpo.preferences import hub_id
from tasks.dpo.steps import Given, _stored_held_out, train_judge


def test_what_is_mapped_is_said_as_in_the_docs() -> None:
    words = "prompt=my question chosen=good,rejected=bad"
    found = PairChoice.model_validate({"map": words}).map
    assert found == {"prompt": "my question", "chosen": "good", "rejected": "bad"}
    for wrong in ("chosen", "=x", "better=chosen"):
        with pytest.raises(ValidationError, match=r"is not like|no shape has a field 'better'"):
            PairChoice.model_validate({"map": wrong})


def test_a_dataset_of_the_hub_is_no_file() -> None:
    def hub(dataset: str) -> str | None:
        return hub_id(PreferenceParameters(dataset=dataset, max_cost=Decimal(1)))

    assert hub("org/pairs") == "org/pairs"
    assert hub("org/pairs:train_prefs") == "org/pairs:train_prefs"
    assert [
        hub(it) for it in ("data/pairs.jsonl", "file:///x/y", "pairs", "/a/b", "tests/unit")
    ] == [None] * 5


def pairs_file(path: Path) -> Path:
    path.write_text(json.dumps({"prompt": "p", "good": "a", "bad": "b"}) + "\n")
    return path


def test_held_out_pairs_are_told_from_prompts(tmp_path: Path) -> None:
    path, prompts = pairs_file(tmp_path / "mine.jsonl"), tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "p", "chosen_by": "x"}\n')
    mapping = {"chosen": "good", "rejected": "bad"}
    assert holds_preferences(path, "--held-out", mapping)
    assert not holds_preferences(path, "--held-out")
    assert not holds_preferences(prompts, "--held-out")


@pytest.mark.usefixtures("home")
def test_held_out_pairs_go_to_the_making_of_the_dataset(tmp_path: Path) -> None:
    own = str(pairs_file(tmp_path / "own.jsonl"))
    asked = {"held_out": own, "pairs": {"map": "chosen=good rejected=bad"}}
    found = _stored_held_out(DPOTrainingParameters.model_validate(asked))
    assert set(found) == {"held_out_pairs"}
    assert set(Given.model_validate(found).data) == {"held_out"}
    found = _stored_held_out(DPOTrainingParameters.model_validate({"held_out": own}))
    assert set(found) == {"held_out"}, "without the map they are prompts"


def test_what_only_a_job_can_read_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    path.write_bytes(b"PAR1")
    assert readable_here(pairs_file(tmp_path / "mine.jsonl"))
    if not readable_here(path):
        assert check_file(path, "--dataset") == (0, 0)


def test_a_judge_is_told_the_limits_of_the_training() -> None:
    artifact = Artifact(uri="file:///x", sha256="0", bytes=1)
    asked = {"model": "me/mine", "dpo": {"max_steps": 7, "max_tokens": 99}}
    told = []

    class Asked:
        parameters = DPOTrainingParameters.model_validate(asked)

        def job(self, *given):
            told.append(given[1])
            return JobResult(status="succeeded", artifacts={"reward_model": artifact})

    given = train_judge.fn(Asked(), Given(), artifact)  # pyright: ignore[reportArgumentType]
    assert (told[0].max_steps, told[0].max_tokens, given.reward) == (7, 99, artifact)
