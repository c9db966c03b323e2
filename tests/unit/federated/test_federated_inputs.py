"""The tenants' folders: what is taken, and what is refused before anything is paid for."""

import json
from pathlib import Path

import pytest

from infra.errors import InputError
from infra.models.registry import ModelVersion
from infra.objects import put
from jobs.federated.texts import read
from tasks.federated.demo import CLINICS, DESIGNS, WORKSHOPS, make_tenants, make_workshops
from tasks.federated.inputs import common_features, prepare_inputs
from tasks.federated.parameters import FederatedParameters
from tasks.federated.steps import require_ranges, require_rank, require_target


def tenants(folder: Path, **headers: str) -> Path:
    for name, header in headers.items():
        (folder / name).mkdir()
        (folder / name / "data.csv").write_text(f"{header}\n1,2,3\n")
    return folder


def given(folder: Path, **told: object) -> FederatedParameters:
    return FederatedParameters.model_validate({"tenants": str(folder), **told})


def test_the_columns_of_most_tenants_are_taken(tmp_path: Path) -> None:
    folder = tenants(tmp_path, a="x,y,label", b="label,y,x,held_out", c="x,label")
    found = prepare_inputs.fn(given(folder))
    assert found.names == ["a", "b", "c"] and found.features == ["x", "y"]
    assert set(found.checksums) == {"a", "b", "c"}
    assert prepare_inputs.fn(given(folder, features="x")).features == ["x"]


def test_of_two_sets_the_larger_is_taken() -> None:
    headers = {"a": {"x", "label"}, "b": {"x", "y", "label"}}
    assert common_features(headers, "label") == ["x", "y"]


@pytest.mark.parametrize(
    ("headers", "told", "named"),
    [
        ({}, {}, r"--tenants: .* has 0 folders"),
        ({"a": "x,label"}, {}, "--tenants: .* has 1 folders"),
        ({"a": "x,label", "b b": "x,label"}, {}, "--tenants: 'b b' is no name"),
        ({"a": "x,y", "b": "x,y"}, {}, "--label: no tenant has a column 'label'"),
        ({"a": "label", "b": "label"}, {}, "--label: no tenant has"),
        ({"a": "x,label", "b": "y,label"}, {"features": "x"}, "1 of 2 tenants have"),
    ],
)
def test_what_is_wrong_names_its_option(
    tmp_path: Path, headers: dict[str, str], told: dict[str, str], named: str
) -> None:
    with pytest.raises(InputError, match=named) as error:
        prepare_inputs.fn(given(tenants(tmp_path, **headers), **told))
    assert error.value.remedy


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--tenants: .* is no folder"):
        prepare_inputs.fn(given(tmp_path / "nowhere"))


def test_the_demo_has_tenants_of_its_own(tmp_path: Path) -> None:
    first = {p: p.read_bytes() for p in make_tenants(tmp_path / "one").glob("*/data.csv")}
    again = {p: p.read_bytes() for p in make_tenants(tmp_path / "two").glob("*/data.csv")}
    assert sorted(first.values()) == sorted(again.values()) and len(first) == len(CLINICS)


def with_texts(folder: Path) -> Path:
    for name in "ab":
        (folder / name).mkdir()
        (folder / name / "texts.jsonl").write_text('{"prompt": "x", "completion": "y"}\n')
    return folder


def test_tenants_of_a_language_model_have_texts(tmp_path: Path) -> None:
    found = prepare_inputs.fn(given(with_texts(tmp_path), model="design"))
    assert found.names == ["a", "b"] and found.features == []
    assert found.language is not None and found.language.design
    assert set(found.checksums) == {"a", "b", "design"}


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--model: there is no folder nowhere") as error:
        prepare_inputs.fn(given(with_texts(tmp_path), model="nowhere"))
    assert error.value.remedy


def test_a_later_night_has_the_rank_of_its_champion(tmp_path: Path) -> None:
    """Before a job is paid for: the nodes would refuse it, too."""
    (tmp_path / "version/adapter").mkdir(parents=True)
    (tmp_path / "version/adapter/adapter_config.json").write_text('{"r": 4}')
    stored = put(tmp_path / "version", (tmp_path / "stored").as_uri())
    champion = ModelVersion(
        model="ours",
        kind="policy",
        version="2",
        uri=stored.uri,
        sha256=stored.sha256,
        base="file:///base",
    )
    require_rank(champion, 4)
    with pytest.raises(InputError, match="--lora-rank: the champion's adapter has rank 4, not 16"):
        require_rank(champion, 16)


def test_a_later_night_scales_as_its_champion() -> None:
    require_ranges(None, None)
    require_ranges([[0.0, 1.0]], [(0.0, 1.0)])
    with pytest.raises(InputError, match=r"--ranges: .* scaled by each tenant's own rows"):
        require_ranges(None, [(0.0, 1.0)])
    for wanted in (None, [(0.0, 2.0)]):
        with pytest.raises(InputError, match=r"--ranges: .* scaled by other ranges"):
            require_ranges([[0.0, 1.0]], wanted)


def test_items_have_a_column_of_groups(tmp_path: Path) -> None:
    folder = tenants(tmp_path, a="x,y,kind", b="kind,y,x")
    assert prepare_inputs.fn(given(folder, group="kind")).features == ["x", "y"]
    with pytest.raises(InputError, match="--group: no tenant has a column 'sort'") as error:
        prepare_inputs.fn(given(folder, group="sort"))
    assert "--group" in error.value.remedy
    with pytest.raises(InputError, match="--group, --features: 0 of 2 tenants have the columns z"):
        prepare_inputs.fn(given(folder, group="kind", features="z"))


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"group": "kind"}, None),
        ({"group": "sort"}, "--group: the champion is an encoder of groups by 'kind'"),
        ({}, "--group: the champion is an encoder of groups by 'kind'"),
        ({"group": "kind", "encoders": {"dimensions": 8}}, "--dimensions: .* 16 dimensions"),
    ],
)
def test_a_later_night_encodes_as_its_champion(asked: dict[str, object], named: str | None) -> None:
    wanted = FederatedParameters.model_validate(asked)
    if named is None:
        require_target({"group": "kind", "dimensions": 16}, wanted)
        return
    with pytest.raises(InputError, match=named):
        require_target({"group": "kind", "dimensions": 16}, wanted)


def test_a_champion_that_predicts_is_no_encoder() -> None:
    asked = FederatedParameters.model_validate({"group": "kind"})
    with pytest.raises(InputError, match="--group: the champion is no encoder"):
        require_target({"label": "sick"}, asked)
    with pytest.raises(InputError, match="--label: the champion predicts 'sick'"):
        require_target({"label": "sick"}, FederatedParameters.model_validate({}))


def test_tables_are_no_texts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 0 folders with texts.jsonl"):
        prepare_inputs.fn(given(tenants(tmp_path, a="x,label", b="x,label"), model="design"))


def test_each_workshop_designs_one_kind_of_part(tmp_path: Path) -> None:
    made = make_workshops(tmp_path / "one")
    for name, common in WORKSHOPS.items():
        texts = read(made / name / "texts.jsonl")
        assert (len(texts.train), len(texts.held_out)) == tuple(DESIGNS.values())
        for text in (*texts.train, *texts.held_out):
            assert common.items() <= json.loads(text.completion).items()
    again = make_workshops(tmp_path / "two")
    assert (made / "gears/texts.jsonl").read_bytes() == (again / "gears/texts.jsonl").read_bytes()
