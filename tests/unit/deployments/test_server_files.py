"""The compose file and the Kubernetes manifests of a real server."""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from deployments.webhooks import gateway
from infra.settings import REPOSITORY, Settings, settings

SERVER = REPOSITORY / "infra" / "server"
COMPOSE = yaml.safe_load((SERVER / "compose.yaml").read_text())
MANIFESTS = list(yaml.safe_load_all((SERVER / "kubernetes.yaml").read_text()))
OLDEST_KUBERNETES = "1.29"
TEXTS = {path.name: path.read_text() for path in SERVER.iterdir()}
ANY_TAG = r"[\w./-]+:\d+\.\d+(\.\d+)?[\w.-]*"


def test_compose_is_a_compose_file() -> None:
    package = find_spec("check_jsonschema")  # not imported: its command wants another click
    assert package and package.origin
    schema = Path(package.origin).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(COMPOSE, json.loads(schema.read_text()))


@pytest.mark.parametrize(
    "manifest", MANIFESTS, ids=lambda m: f"{m['kind']} {m['metadata']['name']}"
)
def test_manifests_are_what_kubernetes_takes(manifest: dict[str, Any]) -> None:
    for version in (OLDEST_KUBERNETES, kubernetes_validate.latest_version()):
        kubernetes_validate.validate(manifest, version, strict=True)
    assert manifest["metadata"]["namespace"] == "nightshift"


def test_every_setting_that_is_named_exists() -> None:
    known = {f"NIGHTSHIFT_{name.upper()}" for name in Settings.model_fields}
    named = {name: set(re.findall(r"NIGHTSHIFT_[A-Z0-9_]+", text)) for name, text in TEXTS.items()}
    for name, variables in named.items():
        assert variables <= known, (name, variables - known)
    assert named["compose.yaml"] >= named["kubernetes.yaml"], "the same settings"
    page = (REPOSITORY / "docs" / "server.md").read_text()
    assert set(re.findall(r"NIGHTSHIFT_[A-Z0-9_]+", page)) <= known


def test_prefect_variables_are_prefects() -> None:
    from prefect.settings.legacy import _get_settings_fields
    from prefect.settings.models.root import Settings as PrefectSettings

    known = set(_get_settings_fields(PrefectSettings))
    for name, text in TEXTS.items():
        named = set(re.findall(r"PREFECT_[A-Z_]+", text))
        assert named <= known, (name, named - known)


def images() -> list[str]:
    found = [one["image"] for one in COMPOSE["services"].values()]
    for manifest in MANIFESTS:
        if manifest["kind"] == "Deployment":
            found += [one["image"] for one in manifest["spec"]["template"]["spec"]["containers"]]
    return found + re.findall(r"^FROM (\S+)", TEXTS["Dockerfile"], re.M)


def test_images_are_pinned_and_ours_is_this_version() -> None:
    for image in images():
        digest = "" if image.startswith("nightshift:") else "@sha256:[0-9a-f]{64}"
        assert re.fullmatch(ANY_TAG + digest, image), image
    version = re.search(r'^version = "(.+)"', (REPOSITORY / "pyproject.toml").read_text(), re.M)
    assert version
    assert {one for one in images() if one.startswith("nightshift")} == {f"nightshift:{version[1]}"}
    assert f"-t nightshift:{version[1]} " in TEXTS["Dockerfile"]
    python = re.search(r"^FROM python:(3\.11)\.", TEXTS["Dockerfile"], re.M)
    assert python, "the version that requires-python names"


def test_secrets_are_not_in_the_tree_and_prefect_is_not_open() -> None:
    for variable, value in COMPOSE["services"]["nightshift"]["environment"].items():
        if re.search("KEY(?!S)|TOKEN|AUTH|PASSWORD", variable):
            assert value is None or value.startswith("${"), variable
    assert all(manifest["kind"] != "Secret" for manifest in MANIFESTS)
    (port,) = COMPOSE["services"]["prefect"]["ports"]
    assert port.startswith("127.0.0.1:") and "ports" not in COMPOSE["services"]["nightshift"]
    assert "PREFECT_SERVER_API_AUTH_STRING" in COMPOSE["services"]["prefect"]["environment"]
    exposed = {
        path["path"]
        for manifest in MANIFESTS
        if manifest["kind"] == "Ingress"
        for rule in manifest["spec"]["rules"]
        for path in rule["http"]["paths"]
    }
    assert exposed == {"/hooks/", "/deliveries/", "/v1/"}
    assert re.findall(r"path (.*)", TEXTS["Caddyfile"]) == ["/hooks/* /deliveries/*", "/v1/*"]


def test_a_model_answers_nobody_without_a_key() -> None:
    (told,) = (one["data"] for one in MANIFESTS if one["kind"] == "ConfigMap")
    for given in (told, COMPOSE["services"]["nightshift"]["environment"]):
        assert given["NIGHTSHIFT_SERVING_KEYS_REQUIRED"] == "true"


def test_compose_gives_no_service_more_than_it_needs() -> None:
    added = {}
    for name, service in COMPOSE["services"].items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["cap_drop"] == ["ALL"] and "privileged" not in service, name
        assert service.get("read_only", False) == (name != "nightshift"), name
        assert "network_mode" in service or service["networks"], name
        added |= {name: service["cap_add"]} if "cap_add" in service else {}
    assert added == {"proxy": ["NET_BIND_SERVICE"], "models": ["NET_BIND_SERVICE"]}
    networks = {n: set(one.get("networks", ())) for n, one in COMPOSE["services"].items()}
    assert not networks["proxy"] & (networks["database"] | networks["prefect"])
    assert COMPOSE["networks"]["data"]["internal"] and networks["database"] == {"data"}


def test_kubernetes_gives_no_pod_more_than_it_needs() -> None:
    """As the Pod Security Standard `restricted` has it."""
    for manifest in MANIFESTS:
        if manifest["kind"] == "Deployment":
            pod = manifest["spec"]["template"]["spec"]
            assert pod["automountServiceAccountToken"] is False
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in pod["containers"]:
                name, given = container["name"], container["securityContext"]
                assert given["allowPrivilegeEscalation"] is False
                bound = {"add": ["NET_BIND_SERVICE"]} if name == "models" else {}
                assert given["capabilities"] == {"drop": ["ALL"]} | bound
                assert given.get("readOnlyRootFilesystem", False) == (name != "nightshift")


def test_kubernetes_lets_nobody_in_or_out_who_is_not_named() -> None:
    policies = {
        one["metadata"]["name"]: one["spec"] for one in MANIFESTS if one["kind"] == "NetworkPolicy"
    }
    assert policies["nothing-else"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    blocks = [
        peer["ipBlock"]
        for spec in policies.values()
        for rule in spec.get("egress", [])
        for peer in rule.get("to", [])
        if "ipBlock" in peer
    ]
    assert blocks and all(one["except"] == ["169.254.0.0/16"] for one in blocks), "node's metadata"
    for name in ("prefect", "nightshift"):
        assert all(rule["from"] for rule in policies[name]["ingress"]), name


def test_the_application_is_no_superuser() -> None:
    for name in ("prefect", "nightshift"):
        text = json.dumps(COMPOSE["services"][name])
        assert "//nightshift:${DATABASE_PASSWORD:?}@database/" in text
        assert "POSTGRES_PASSWORD" not in text
    assert "NOSUPERUSER CREATEDB NOCREATEROLE" in TEXTS["role.sh"]


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_their_settings_are_accepted(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, str | None] = COMPOSE["services"]["nightshift"]["environment"]
    if where == "kubernetes":
        given = next(one["data"] for one in MANIFESTS if one["kind"] == "ConfigMap")
    for name, value in given.items():
        if name.startswith("NIGHTSHIFT_") and value is not None and "${" not in value:
            monkeypatch.setenv(name, value)
    settings.cache_clear()
    gateway.check()
    assert settings().gateway_host == "0.0.0.0"  # noqa: S104 - behind a proxy
    assert settings().notifications == [] and settings().trusted_proxies
    settings.cache_clear()


def test_a_value_that_is_empty_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_S3_ENDPOINT_URL", "")
    assert Settings().s3_endpoint_url is None
