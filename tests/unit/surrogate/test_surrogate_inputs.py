"""What a user gives a surrogate is checked before a cent is spent."""

import os
from pathlib import Path

import pytest

from infra import objects
from infra.errors import InputError
from infra.models import registry
from infra.models.registry import ModelVersion
from infra.settings import settings
from tasks.surrogate.inputs import require_town, stored_observations, stored_towns, stored_weather
from tasks.surrogate.parameters import SurrogateParameters
from tests.helpers.epw import lines


def write(path: Path, content: list[str]) -> str:
    path.write_text("\n".join(content) + "\n")
    return str(path)


def test_a_whole_epw_file_is_stored(home: Path, tmp_path: Path) -> None:
    artifact = stored_weather(write(tmp_path / "town.epw", lines()))
    assert artifact is not None and objects.exists(artifact.uri)
    assert stored_weather(None) is None


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "town.epw: No such file"),
        (["LOCATION,Nowhere", "1,2,3"], "town.epw, line 1: it does not begin with LOCATION"),
        (lines()[:100] + ["1,2"] + lines()[101:], "town.epw, line 101: 2 fields"),
        (lines()[:5000], "town.epw, line 5000: the file ends after 4992 hours"),
    ],
    ids=["missing", "torn", "row", "short"],
)
def test_a_wrong_one_is_told_with_its_name_and_line(
    home: Path, tmp_path: Path, content: list[str] | None, named: str
) -> None:
    path = tmp_path / "town.epw"
    if content is not None:
        write(path, content)
    with pytest.raises(InputError, match=r"^--weather: ") as caught:
        stored_weather(str(path))
    assert named in caught.value.message and caught.value.remedy
    assert objects.list_artifacts(settings().objects_uri) == [], "nothing was stored"


def test_a_folder_or_an_unreadable_one_is_no_epw_file(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--weather: .*Is a directory"):
        stored_weather(str(tmp_path))
    (tmp_path / "town.epw").write_bytes(os.urandom(5000))
    with pytest.raises(InputError, match=r"--weather: town\.epw, line 1"):
        stored_weather(str(tmp_path / "town.epw"))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "--town-of needs a --weather"),
        ({"weather": "town.epw", "name": "other"}, "--town-of other is the --name too"),
        ({"weather": "town.epw"}, "'other' has no champion"),
    ],
)
def test_a_town_needs_weather_and_what_it_is_made_of(
    database: object, given: dict[str, str], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        require_town(SurrogateParameters.model_validate({"town_of": "other"} | given))


def test_a_town_is_made_of_no_other_kind_of_model(
    database: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"model": "words", "kind": "policy", "version": "1"}
    words = ModelVersion.model_validate(fields | {"uri": "u", "sha256": "s", "base": "b"})
    monkeypatch.setattr(registry, "by_alias", lambda *_: words)
    with pytest.raises(InputError, match=r"^--town-of: 'words' is a policy, no surrogate"):
        require_town(SurrogateParameters(town_of="words", weather="town.epw"))


def test_too_few_observations_or_none_are_told(home: Path, tmp_path: Path) -> None:
    assert stored_observations(None, 1) is None
    few = tmp_path / "few"
    few.mkdir()
    for number in range(2):
        (few / f"house-{number}.csv").write_text("time\n")
    assert stored_observations(str(few), 2) is not None
    for folder, fewest, named in ((few, 3, "2 observations, too few"), (tmp_path, 1, "no folder")):
        with pytest.raises(InputError, match=f"^--observations: .*{named}"):
            stored_observations(str(folder), fewest)


def test_towns_are_whole_and_none_is_trained_on(home: Path, tmp_path: Path) -> None:
    folder, own = tmp_path / "towns", write(tmp_path / "own.epw", lines())
    folder.mkdir()
    assert stored_towns(None, own) is None
    with pytest.raises(InputError, match=r"^--towns: .* is no folder with EPW files"):
        stored_towns(str(folder), None)
    write(folder / "one.EPW", [lines()[0].replace("Here", "There"), *lines()[1:]])
    assert stored_towns(str(folder), own) is not None
    write(folder / "two.epw", lines())
    assert stored_towns(str(folder), None) is not None
    with pytest.raises(InputError, match=r"^--towns: two\.epw is the file of --weather"):
        stored_towns(str(folder), own)
    write(folder / "torn.epw", lines()[:5000])
    with pytest.raises(InputError, match=r"^--towns: torn\.epw, line 5000"):
        stored_towns(str(folder), None)
