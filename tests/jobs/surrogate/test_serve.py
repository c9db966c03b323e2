"""The HTTP endpoint: a population in, mean, deviation, fitness and the best one out, 4xx else."""

import io
import json
import re
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from scipy.stats import norm

from jobs.surrogate import serve
from jobs.surrogate.config import DESIGN, INPUTS, OUTPUTS, WEATHER
from jobs.surrogate.designs import check_designs, out_of_range, sample
from tests.helpers.epw import lines
from tests.jobs.surrogate.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "surrogate-retraining.md").read_text()
DESIGNS = sample(DESIGN, 5, 3).to_dict("records")
CLIMATE = {q.name: (q.low + q.high) / 2 for q in WEATHER}


class Stand:
    """In place of an exported surrogate: loads grow with the width, intervals are ±20."""

    confidence = 0.9

    def __init__(self, _folder: Path) -> None:
        pass

    def flagged(self, numbers: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
        mean = np.repeat(numbers["width"].to_numpy()[:, None], len(OUTPUTS), axis=1)
        return mean, self.half_width(mean), out_of_range(numbers)

    def half_width(self, mean: np.ndarray) -> np.ndarray:
        return np.full_like(mean, 20.0)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setattr(serve, "Surrogate", Stand)
    (tmp_path / "surrogate.json").write_text(json.dumps({"ranges": {}, "inputs": INPUTS}))
    return TestClient(serve.make_app(tmp_path, "house 3", {}), "http://localhost:8700")


def ask(client: TestClient, **body: object):
    return client.post(
        "/v1/surrogate/evaluate", json={"designs": DESIGNS, "weather": CLIMATE, **body}
    )


def test_a_population_is_judged_by_mean_and_risk(client: TestClient) -> None:
    answer = ask(client, risk_aversion=2.0).json()
    assert answer["version"] == "house 3" and answer["targets"] == list(OUTPUTS)
    mean, deviation = np.array(answer["mean"]), np.array(answer["standard_deviation"])
    assert mean.shape == deviation.shape == (5, len(OUTPUTS))
    np.testing.assert_allclose(deviation, 20 / norm.ppf(0.95), rtol=1e-3)
    energy = mean[:, :4].sum(1) / 2
    np.testing.assert_allclose(answer["fitness"], -(energy + 2 * deviation[:, :4].sum(1) / 2))
    assert answer["best"] == int(np.argmin(energy)) and answer["outside"] == [[]] * 5
    assert set(client.get("/v1/surrogate").json()["inputs"]) == set(INPUTS)


def test_who_fears_risk_takes_the_surer_design(client: TestClient, monkeypatch) -> None:
    narrow, wide = DESIGNS[0] | {"width": 11.0}, DESIGNS[0] | {"width": 10.0}

    monkeypatch.setattr(Stand, "half_width", lambda _, mean: np.where(mean > 10.5, 1.0, 5.0))
    for risk_aversion, best in ((0.0, 1), (1.0, 0)):
        body = {"designs": [narrow, wide], "risk_aversion": risk_aversion}
        assert ask(client, **body).json()["best"] == best


def test_one_weather_file_is_for_requests_that_tell_nothing_of_the_weather(
    tmp_path: Path, client: TestClient
) -> None:
    town = CLIMATE | {"latitude": 10.0, "mean_temperature": 90.0}
    with_town = TestClient(serve.make_app(tmp_path, "house 3", town), "http://127.0.0.1")
    assert with_town.get("/v1/surrogate").json()["weather"] == town
    assert ask(client, weather={}).status_code == 422
    outside = [["mean_temperature"]] * 5
    assert ask(with_town, weather={}).json()["outside"] == outside
    assert ask(with_town).json()["outside"] == [[]] * 5, "its own weather"
    own = [design | CLIMATE for design in DESIGNS]
    assert ask(with_town, weather={}, designs=own).json()["outside"] == [[]] * 5
    answer = ask(with_town, weather={"latitude": 10.0})
    assert answer.status_code == 422 and "no column" in answer.json()["error"], "no mixture of two"


@pytest.mark.parametrize(
    ("body", "named", "remedy"),
    [
        ({"designs": []}, "designs", "1 to 20,000"),
        ({"designs": [{"width": "wide"}]}, "designs.0.width", "of numbers"),
        ({"designs": [{"width": 5.0}]}, "no column", "the columns"),
        ({"designs": [DESIGNS[0] | {"depth": -2.0}]}, "row 1: depth is -2", "Correct"),
        ({"designs": [DESIGNS[0] | {"heating_setpoint": 293.0}]}, "kelvin", "Celsius"),
        ({"risk_aversion": -1}, "risk_aversion", "from 0 to 100"),
        ({"weather": CLIMATE | {"width": 4.0}}, "width is none of its columns", "latitude"),
        ({"weather": 4}, "weather", "latitude"),
        ({"wether": CLIMATE}, "wether", "designs, weather, risk_aversion"),
    ],
)
def test_what_is_wrong_is_a_clear_422_with_what_mends_it(
    client: TestClient, body, named, remedy
) -> None:
    answer = ask(client, **body)
    assert answer.status_code == 422 and named in answer.json()["error"], answer.text
    assert remedy in answer.json()["remedy"]


def test_bodies_that_are_no_json_or_too_large_are_refused(client: TestClient, monkeypatch) -> None:
    for body in (b"", b"designs", b"[1]"):
        answer = client.post("/v1/surrogate/evaluate", content=body)
        assert answer.status_code == 422 and "a JSON object" in answer.json()["remedy"]
    nan = json.dumps({"designs": [DESIGNS[0] | CLIMATE | {"width": float("nan")}]})
    assert client.post("/v1/surrogate/evaluate", content=nan).status_code == 422
    monkeypatch.setattr(serve, "MOST_BYTES", 100)
    answer = ask(client)
    assert answer.status_code == 413 and "100 bytes" in answer.json()["error"]


@pytest.mark.parametrize("host", ["evil.example:8700", "127.0.0.1.evil.example", ""])
def test_a_name_that_another_page_made_lead_here_is_refused(client: TestClient, host: str) -> None:
    """DNS rebinding: the browser takes our answers for those of the page's own domain."""
    for path in ("/v1/surrogate", "/"):
        assert client.get(path, headers={"Host": host}).status_code == 400
    assert client.get("/v1/surrogate", headers={"Host": "127.0.0.1:8700"}).status_code == 200


def test_the_examples_of_the_page_are_whole(client: TestClient) -> None:
    found = re.search(r"evaluate -H 'Content-Type: application/json' -d '(.*?)'\n", PAGE, re.S)
    assert found, "the request to copy"
    answer = client.post("/v1/surrogate/evaluate", content=found[1])
    assert answer.status_code == 200 and answer.json()["outside"] == [[], []], answer.text
    table = re.search(r"cat > designs.csv <<END\n(.*?)END\n", PAGE, re.S)
    assert table, "the designs to copy"
    designs = pd.read_csv(io.StringIO(table[1])).assign(**CLIMATE)
    assert out_of_range(check_designs(designs, "designs.csv")) == [[], [], []]


def test_a_broken_weather_file_or_no_surrogate_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    (tmp_path / "town.epw").write_text("LOCATION,Nowhere\n")
    (tmp_path / "whole.epw").write_text("\n".join(lines()))
    for weather, told in (("town.epw", "✗ town.epw, line 1"), ("whole.epw", "holds no surrogate")):
        given = ["--model", str(tmp_path), "--port", "0", "--weather", str(tmp_path / weather)]
        monkeypatch.setattr("sys.argv", ["serve", *given])
        with pytest.raises(SystemExit) as ended:
            serve.main()
        assert ended.value.code == 2 and told in capsys.readouterr().err


def test_a_port_in_use_is_told(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setattr("sys.argv", ["serve", "--model", "any", "--port", port])
        with pytest.raises(SystemExit) as ended:
            serve.main()
    assert ended.value.code == 4
    assert f"port {port}: " in capsys.readouterr().err
