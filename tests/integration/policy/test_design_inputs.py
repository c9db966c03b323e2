"""The demo's base is kept for what made it, its config and its sources; champions stand on it."""

import shutil
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from infra import database as db
from infra import objects
from infra.contract import JobResult
from infra.errors import InputError
from infra.models import registry, verdicts
from infra.models.registry import ModelVersion
from infra.records import experience, runs
from infra.settings import REPOSITORY, settings
from jobs.design.config import BaseModelConfig
from tasks.champions.gate import first_version
from tasks.policy import design
from tasks.policy.champion import current_champion
from tasks.policy.inputs import Inputs
from tasks.ppo import steps as ppo
from tasks.ppo.parameters import NightlyPPOParameters
from tasks.runs.plan import Step
from tasks.runs.purse import Purse
from tasks.runs.run import Work
from tests.integration.records.test_runs_and_experience import rows

_nights = count()


asked: list[Any] = []
"""Configurations of jobs."""


class Quick(Work):
    """A run whose base is trained at once: its weights are the first line of the trainer."""

    def job(self, step: Step[Any], config: Any, _inputs: object) -> JobResult:
        asked.append(config)
        source = self.folder / "made"
        source.mkdir(exist_ok=True)
        (source / "weights").write_text((design.SOURCES / "base.py").read_text()[:40])
        artifacts = {
            part: objects.put(source, f"{self.uri}/{step.name}/{part}")
            for part in ("model", "prompts", "held_out")
        }
        return JobResult(status="succeeded", artifacts=artifacts)


@pytest.fixture(autouse=True)
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the demo's sources that a test may change."""
    copy = tmp_path / "design"
    shutil.copytree(REPOSITORY / "jobs" / "design", copy)
    monkeypatch.setattr(design, "SOURCES", copy)
    return copy


def begin(pool: db.Pool, name: str = "design") -> tuple[Quick, Inputs]:
    """A new night of the demo, and what it works with."""
    run = runs.begin(pool, "test-flow", {"night": next(_nights)})
    work = Quick(run, Purse(pool, run, "local"), NightlyPPOParameters(name=name), ppo.STEPS)
    return work, design.with_design(work, ppo.prepare_inputs.fn(work.parameters))


def hub_night(pool: db.Pool, model: str) -> Work:
    """A new night of a model that no folder holds."""
    run = runs.begin(pool, "test-flow", {"night": next(_nights)})
    parameters = NightlyPPOParameters(name="hub", model=model)
    return Quick(run, Purse(pool, run, "local"), parameters, ppo.STEPS)


def change(source: Path, old: str, new: str) -> None:
    text = source.read_text()
    assert old in text
    source.write_text(text.replace(old, new, 1))


def kept() -> int:
    """How many bases are kept in this home folder."""
    return len(objects.list_artifacts(f"{settings().objects_uri}/datasets/design")) // 3


def test_the_base_is_made_once(database: db.Pool, sources: Path) -> None:
    first, again = begin(database)[1], begin(database)[1]
    assert first == again and kept() == 1
    (sources / "__pycache__").mkdir(exist_ok=True)
    (sources / "__pycache__" / "base.pyc").write_text("compiled")
    assert begin(database)[1] == first and kept() == 1


@pytest.mark.parametrize("name", ["base.py", "requests.py", "parts.py"])
def test_other_sources_make_another_base_and_another_run(
    database: db.Pool, sources: Path, name: str
) -> None:
    _, first = begin(database)
    with (sources / name).open("a") as source:
        source.write("\n# other\n")
    _, other = begin(database)
    assert kept() == 2 and first.base != other.base
    assert first.checksums["design"] != other.checksums["design"]


def test_another_config_makes_another_base(
    database: db.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(database)
    monkeypatch.setattr(design, "BaseModelConfig", partial(BaseModelConfig, steps=9))
    begin(database)
    assert kept() == 2


def train(champion: ModelVersion) -> ModelVersion:
    """A version that grew from this one."""
    grown = {"uri": "file:///adapter", "sha256": "grown", "parent": champion.version}
    return registry.register("night", champion.model_copy(update=grown))


def test_a_champion_stands_on_the_content_of_its_base(database: db.Pool, sources: Path) -> None:
    champion = current_champion.fn(*begin(database, "content"))
    with (sources / "base.py").open("a") as source:
        source.write("\n# made elsewhere, of the same bytes\n")
    work, same = begin(database, "content")
    assert same.base and same.base.uri != champion.base
    assert current_champion.fn(work, same).version == champion.version
    trained = train(champion)

    change(sources / "base.py", '"""The demo', '"""Another demo')
    work, other = begin(database, "content")
    with pytest.raises(InputError, match=r"--model: the champion of 'content' stands on") as caught:
        current_champion.fn(work, other)
    assert "--name" in caught.value.remedy
    assert registry.versions("content")[0].version == trained.version


def test_a_base_that_nothing_was_trained_on_gives_way(database: db.Pool, sources: Path) -> None:
    """As a run leaves it that was refused for lack of money."""
    one = current_champion.fn(*begin(database, "untouched"))
    change(sources / "base.py", '"""The demo', '"""Another demo')
    work, other = begin(database, "untouched")
    experience.add_sampled(database, work.run, "untouched", one.version, rows(3), "f")
    for _ in range(2):  # again, as a resumed run does
        two = current_champion.fn(work, other)
        assert other.base and (two.version, two.base) == ("2", other.base.uri)
        assert registry.versions("untouched")[0].aliases == ["champion"]
    with pytest.raises(KeyError, match="trajectories"):
        ppo.collect_trajectories.fn(work, other, two)
    assert asked[-1].count == work.parameters.trajectories, (
        "what another base answered has other tokens"
    )
    hub = [
        current_champion.fn(hub_night(database, model), Inputs()).base
        for model in ("org/one", "org/two", "org/one")
    ]
    assert hub == ["org/one", "org/two", "org/one"]
    train(current_champion.fn(hub_night(database, "org/two"), Inputs()))
    with pytest.raises(InputError, match=r"--model: .* stands on org/two"):
        current_champion.fn(hub_night(database, "org/one"), Inputs())


def test_a_surrogate_does_not_give_way(database: db.Pool) -> None:
    work = hub_night(database, "org/one")
    uri = "file:///surrogate"
    house = ModelVersion(
        model="hub", kind="surrogate", version="", uri=uri, sha256="house", base=uri
    )
    version = registry.register("night", house).version
    verdicts.save(database, work.run, "hub", version, "none", first_version())
    registry.promote("hub", version)
    with pytest.raises(InputError, match=r"--name: 'hub' is a surrogate, no policy"):
        current_champion.fn(work, Inputs())


def test_a_champion_whose_base_is_gone_is_refused(database: db.Pool, sources: Path) -> None:
    champion = current_champion.fn(*begin(database, "gone"))
    train(champion)
    objects.delete(champion.base)
    change(sources / "base.py", '"""The demo', '"""Another demo')
    work, other = begin(database, "gone")
    with pytest.raises(InputError, match="--model"):
        current_champion.fn(work, other)


def test_the_success_of_the_demo_is_not_told_of_another_reward() -> None:
    demo, other = (NightlyPPOParameters(reward_model=model) for model in (None, "org/reward-model"))
    assert ppo._success(demo, Inputs()) == design.SUCCESS
    assert ppo._success(other, Inputs()) is None
