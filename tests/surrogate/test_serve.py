"""The HTTP endpoint: a population in, mean, deviation, fitness and the best one out, 4xx else."""

import json
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from scipy.stats import norm

from jobs.surrogate import serve
from jobs.surrogate.config import DESIGN, INPUTS, OUTPUTS, WEATHER
from jobs.surrogate.designs import sample

DESIGNS = sample(DESIGN, 5, 3).to_dict("records")
CLIMATE = {q.name: (q.low + q.high) / 2 for q in WEATHER}


class Stand:
    """In place of an exported surrogate: loads grow with the width, intervals are ±20."""

    confidence = 0.9

    def __init__(self, _folder: Path) -> None:
        pass

    def __call__(self, numbers: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        mean = np.repeat(numbers["width"].to_numpy()[:, None], len(OUTPUTS), axis=1)
        return mean, np.full_like(mean, 20.0)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setattr(serve, "Surrogate", Stand)
    (tmp_path / "surrogate.json").write_text(json.dumps({"ranges": {}, "inputs": INPUTS}))
    return TestClient(serve.make_app(tmp_path, "house 3"))


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

    def call(_self: Stand, numbers: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        mean = np.repeat(numbers["width"].to_numpy()[:, None], len(OUTPUTS), axis=1)
        return mean, np.where(mean > 10.5, 1.0, 5.0)

    monkeypatch.setattr(Stand, "__call__", call)
    for risk_aversion, best in ((0.0, 1), (1.0, 0)):
        body = {"designs": [narrow, wide], "risk_aversion": risk_aversion}
        assert ask(client, **body).json()["best"] == best


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"designs": []}, "designs"),
        ({"designs": [{"width": "wide"}]}, "designs.0.width"),
        ({"designs": [{"width": 5.0}]}, "no column"),
        ({"designs": [DESIGNS[0] | {"depth": -2.0}]}, "row 1: depth is -2"),
        ({"designs": [DESIGNS[0] | {"heating_setpoint": 293.0}]}, "kelvin"),
        ({"risk_aversion": -1}, "risk_aversion"),
        ({"weather": CLIMATE | {"width": 4.0}}, "width is none of its columns"),
        ({"wether": CLIMATE}, "wether"),
    ],
)
def test_what_is_wrong_is_a_clear_422(client: TestClient, body, named) -> None:
    answer = ask(client, **body)
    assert answer.status_code == 422 and named in answer.json()["error"], answer.text
    assert answer.json()["remedy"]


def test_bodies_that_are_no_json_or_too_large_are_refused(client: TestClient, monkeypatch) -> None:
    for body in (b"", b"designs", b"[1]"):
        assert client.post("/v1/surrogate/evaluate", content=body).status_code == 422
    nan = json.dumps({"designs": [DESIGNS[0] | CLIMATE | {"width": float("nan")}]})
    assert client.post("/v1/surrogate/evaluate", content=nan).status_code == 422
    monkeypatch.setattr(serve, "MOST_BYTES", 100)
    answer = ask(client)
    assert answer.status_code == 413 and "100 bytes" in answer.json()["error"]


def test_a_port_in_use_is_told(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setattr("sys.argv", ["serve", "--model", "any", "--port", port])
        with pytest.raises(SystemExit) as ended:
            serve.main()
    assert ended.value.code == 4
    assert f"port {port}: " in capsys.readouterr().err
