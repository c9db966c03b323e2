"""What is refused before a machine is asked for: by SkyPilot, by our settings, by its policy.

SkyPilot is the real one here, without a cloud; processes of their own import it, since it reads
HOME then.
"""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from infra import database as db
from infra import ledger
from infra.compute import attempts, jobs
from infra.compute.launcher import Quote
from infra.compute.sky import quotes
from infra.compute.sky.launcher import SkyLauncher
from infra.compute.sky.task import LABEL, RESERVATION_LABEL
from infra.contract import JobSpec
from infra.errors import EnvironmentBuildError, LaunchError
from infra.settings import REPOSITORY, settings
from tasks.runs import launch, offers
from tasks.runs.purse import Purse
from tests.helpers.users import User

QUOTE = Quote(
    launcher="sky",
    hourly_usd=Decimal(6),
    accelerators={},
    region="slurm/local/spot",
    source="a test",
)


@pytest.mark.parametrize(
    ("cloud", "key", "says", "command"),
    [
        ("slurm", "", "no cloud enabled", "run surrogate-retraining --plan"),
        ("hyperbolic", "a key of no account", "catalogue cannot be fetched", "quote"),
    ],
)
def test_a_cloud_that_is_not_set_up(
    database: db.Pool, tmp_path: Path, cloud: str, key: str, says: str, command: str
) -> None:
    """The catalogue's address leads to nobody, as without the internet."""
    home = tmp_path / "elsewhere"
    for name, text in {
        ".sky/config.yaml": f"allowed_clouds: [{cloud}]\n",
        ".hyperbolic/api_key": key,
    }.items():
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text(text)
    given = settings().database_url
    assert given
    renter = User(
        tmp_path,
        {
            "HOME": str(home),
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "NIGHTSHIFT_DATABASE_URL": given.get_secret_value(),
            "NIGHTSHIFT_OBJECTS": "s3://nights/root",
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
        },
    )
    code, out, err = renter.run(*command.split(), "--target", "sky")
    assert code == 6 and says in err and "→" in err and "Traceback" not in err, out + err
    assert len(err.strip().splitlines()) == 2, err


KINDS = """
from types import SimpleNamespace
from sky.server.requests.request_names import AdminPolicyRequestName
from infra.compute.policy import RequireReservation

for kind in AdminPolicyRequestName:
    request = SimpleNamespace(
        request_name=kind,
        request_options=None,
        at_client_side=False,
        task=SimpleNamespace(resources=[SimpleNamespace(labels={})]),
        skypilot_config=None,
    )
    try:
        RequireReservation.validate_and_mutate(request)
        print("allowed", kind.value)
    except PermissionError:
        print("refused", kind.value)
"""


def test_every_kind_of_launch_needs_a_reservation(home: Path, tmp_path: Path) -> None:
    """Those of SkyPilot's managed jobs when they recover, too."""
    asked = subprocess.run(
        [sys.executable, "-c", KINDS],
        cwd=REPOSITORY,
        env=User(tmp_path, {"HOME": str(tmp_path)}).environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [line.split() for line in asked.stdout.splitlines()]
    refused = {kind for answer, kind in answers if answer == "refused"}
    assert {"launch", "jobs.launch", "jobs.launch_cluster", "serve.launch_replica"} <= refused
    assert len(refused) == len(answers) - 3


ADMITTED = """
import json, sys
from types import SimpleNamespace
from sky.server.requests.request_names import AdminPolicyRequestName
from infra.compute.policy import RequireReservation

for line in sys.stdin:
    given = json.loads(line)
    resources = SimpleNamespace(
        labels=given["labels"],
        infra=SimpleNamespace(to_str=lambda: given["region"]),
        instance_type=given["machine"],
        get_cost=lambda seconds: given["hourly"] * seconds / 3600,
    )
    request = SimpleNamespace(
        request_name=AdminPolicyRequestName(given["kind"]),
        request_options=SimpleNamespace(dryrun=False, cluster_name=given["place"]),
        at_client_side=given["client"],
        task=SimpleNamespace(
            resources=[resources] * given["several"], num_nodes=given["nodes"]
        ),
        skypilot_config=None,
    )
    try:
        RequireReservation.validate_and_mutate(request)
        print("admitted")
    except PermissionError as error:
        print(error)
"""


def test_a_reservation_admits_the_machine_that_was_reserved_once(
    purse: Purse, wanted: JobSpec, tmp_path: Path
) -> None:
    """The client's side, which is asked first, uses nothing up."""
    jobs.record_launch(purse.pool, purse.run, wanted, QUOTE, None)
    until = datetime.now(UTC) + timedelta(hours=1)
    reservation = ledger.reserve(purse.pool, f"{wanted.key}#1", purse.scopes, Decimal(1), until)
    quote = QUOTE.model_copy(update={"instance_type": "big"})
    attempt = attempts.begin(purse.pool, wanted, reservation, quote, "here")
    labels = {LABEL: attempts.installation(purse.pool), RESERVATION_LABEL: str(reservation.id)}
    right = {
        "kind": "launch",
        "client": False,
        "place": attempt.place,
        "labels": labels,
        "region": quote.region,
        "machine": "big",
        "hourly": 6.0,
        "nodes": 1,
        "several": 1,
    }
    asked = [
        {"place": "by-hand"},
        {"place": None},
        {"region": "aws/us-east-1"},
        {"machine": "bigger"},
        {"hourly": 6.01},
        {"nodes": 2},
        {"several": 2},
        {"labels": {}},
        {"labels": labels | {RESERVATION_LABEL: "99"}},
        {"kind": "jobs.launch_cluster", "labels": {}},
        {"client": True},
        {"client": True},
        {},
        {},
        {"client": True},
    ]
    given = settings().database_url
    assert given
    environment = User(
        tmp_path,
        {"HOME": str(tmp_path), "NIGHTSHIFT_DATABASE_URL": given.get_secret_value()},
    ).environment()
    done = subprocess.run(
        [sys.executable, "-c", ADMITTED],
        cwd=REPOSITORY,
        env=environment,
        input="".join(json.dumps(right | one) + "\n" for one in asked),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = done.stdout.splitlines()
    assert len(answers) == len(asked), done.stderr
    admitted = [number for number, answer in enumerate(answers) if answer == "admitted"]
    assert admitted == [10, 11, 12], answers
    assert "by-hand" in answers[0] and "already" in answers[13]
    assert "bigger" in answers[3] and "6.01" in answers[4] and "2 machines" in answers[5]


@pytest.fixture
def wanted(purse: Purse, home: Path, monkeypatch: pytest.MonkeyPatch) -> JobSpec:
    """A job for a machine that SkyPilot offers, as it is told; whoever rents it fails."""
    sky = SkyLauncher(purse.pool)
    monkeypatch.setattr(offers, "launchers", lambda _target: {"sky": sky})
    monkeypatch.setattr(quotes, "quotes", lambda _resources: [QUOTE])
    monkeypatch.setattr(sky, "_request", lambda *_: pytest.fail("a machine was asked for"))
    key = f"{purse.run.id}/step"
    return JobSpec(
        name="basic.steps",
        environment="node",
        config={},
        output=f"{home.as_uri()}/objects/{key}",
        max_hours=0.01,
        key=key,
    )


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("NIGHTSHIFT_SKY_ALLOWED", "aws/eu-*", "NIGHTSHIFT_SKY_ALLOWED"),
        ("NIGHTSHIFT_NETWORK_CHECK", "sh -c 'echo no VPN; exit 3'", "exit code 3: no VPN"),
    ],
)
def test_what_a_setting_forbids_is_refused_before_a_machine_is_asked_for(
    purse: Purse,
    wanted: JobSpec,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    says: str,
) -> None:
    monkeypatch.setenv(variable, value)
    settings.cache_clear()
    with pytest.raises(LaunchError) as caught:
        launch.run_job(wanted, purse)
    assert says in str(caught.value)
    assert attempts.of_job(purse.pool, wanted.key) == []


def test_an_unknown_environment_is_refused(purse: Purse, wanted: JobSpec) -> None:
    with pytest.raises(EnvironmentBuildError, match="nowhere"):
        launch.run_job(wanted.model_copy(update={"environment": "nowhere"}), purse)
    assert attempts.of_job(purse.pool, wanted.key) == []
