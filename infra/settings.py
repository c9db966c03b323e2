"""Every setting of Nightshift, as one model. Each is an environment variable `NIGHTSHIFT_<NAME>`.

`docs/settings.md` is made from this file; secrets are `SecretStr` and never reach a log.
"""

import difflib
import math
import os
import re
from decimal import Decimal
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from infra.contract import MODEL_NAME
from infra.errors import SettingsError, first_fault

REPOSITORY = Path(__file__).resolve().parent.parent
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="NIGHTSHIFT_", extra="ignore", env_ignore_empty=True
    )

    home: Path = Field(
        default=REPOSITORY / ".nightshift",
        description="Folder for the embedded database, objects, jobs and job environments.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="postgresql:// URL of a PostgreSQL 14+ server; unset: an embedded server. "
        "The databases `prefect` and `mlflow` are used beside the one that it names.",
    )
    objects: str | None = Field(
        default=None,
        description="Root URI of all artefacts, file:// or s3://; unset: HOME/objects.",
    )
    s3_plain_http: bool = Field(
        default=False,
        description="Let S3_ENDPOINT_URL be an http:// URL of another machine: whoever is on the "
        "way can then read and alter models, and code that jobs run.",
    )
    s3_endpoint_url: str | None = Field(
        default=None,
        description="Endpoint of an S3-compatible server, https:// unless it is on this machine; "
        "unset: AWS.",
    )
    budget_usd_per_day: Decimal = Field(
        default=Decimal(200),
        gt=0,
        max_digits=12,
        decimal_places=4,
        description="Daily cap of the whole project in dollars, used when the database is "
        "first made; afterwards `nightshift budget set`.",
    )
    budget_timezone: str = Field(
        default="UTC", description="IANA time zone in which budget days and months begin."
    )
    local_usd_per_hour: Decimal = Field(
        default=Decimal("0.15"),
        ge=0,
        decimal_places=4,
        max_digits=12,
        description="Price of one job on this machine's CPUs in dollars an hour "
        "(electricity, depreciation).",
    )
    local_gpu_usd_per_hour: Decimal = Field(
        default=Decimal("1.00"),
        ge=0,
        decimal_places=4,
        max_digits=12,
        description="Price of each GPU of this machine that a job uses, in dollars an hour, "
        "on top of LOCAL_USD_PER_HOUR.",
    )
    local_gpus: int | None = Field(
        default=None,
        ge=0,
        description="Number of this machine's GPUs; unset: as nvidia-smi counts them.",
    )
    local_sandbox: Literal["auto", "off"] = Field(
        default="auto",
        description="auto: jobs on this machine run in a sandbox where Linux gives one without "
        "root, as `nightshift doctor` shows; off: they read and write all that you can.",
    )
    local_network: bool = Field(
        default=True,
        description="Whether jobs on this machine have a network; without one they are refused "
        "where there is no sandbox, and take models and data from files only.",
    )
    stop_grace_seconds: float = Field(
        default=20,
        gt=0,
        description="Time a job gets between SIGTERM and SIGKILL to checkpoint, s.",
    )
    poll_seconds: float = Field(
        default=0.5, gt=0, description="How often a running job is looked at and charged, s."
    )
    feedback_threshold: int = Field(
        default=500,
        ge=1,
        description="Pieces of feedback on a model after which `feedback.threshold-reached` is "
        "emitted, each time anew.",
    )
    observation_threshold: int = Field(
        default=100,
        ge=1,
        description="Observations of a surrogate's buildings after which "
        "`observations.threshold-reached` is emitted, each time anew.",
    )
    notifications: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="Prefect's notification blocks that are told of budget warnings, failed gates "
        "and failed runs, as TYPE/NAME divided by commas, e.g. "
        "`slack-webhook/team,pager-duty-webhook/ops,sendgrid-email/me`.",
    )
    serving_folder: Path | None = Field(
        default=None,
        description="Where the local serving target keeps deployed models; unset: HOME/serving.",
    )

    served_models: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="Policies, divided by commas, that answer live here. `nightshift up` serves "
        "them. What `nightly-ppo` and `dpo-training` make of them becomes champion by a rollout on "
        "their endpoint only, and that of all others at once.",
    )

    serving_port: int = Field(
        default=8800,
        ge=1,
        le=65000,
        description="Port of the first of SERVED_MODELS when `nightshift up` serves them; those of "
        "the others follow.",
    )

    serving_keys_required: bool = Field(
        default=False,
        description="Whether endpoints of models refuse requests without an API key even while "
        "there is none; set it where a proxy lets others in.",
    )

    gateway_host: str = Field(
        default="127.0.0.1",
        description="Address on which the webhook gateway listens; another than loopback needs a "
        "certificate or TRUSTED_PROXIES.",
    )
    gateway_port: int = Field(
        default=8180, ge=0, le=65535, description="Port of the webhook gateway; 0: any free one."
    )
    gateway_certificate: Path | None = Field(
        default=None, description="PEM file with the certificate chain of the webhook gateway."
    )
    gateway_key: Path | None = Field(
        default=None, description="PEM file with the private key of GATEWAY_CERTIFICATE."
    )
    trusted_proxies: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="Addresses or networks, divided by commas, of the proxies whose "
        "X-Forwarded-For and X-Forwarded-Proto the webhook gateway believes.",
    )
    hooks_key: SecretStr | None = Field(
        default=None,
        description="Fernet key that encrypts the secrets of hooks; unset: the file "
        "HOME/hooks.key, made on first use.",
    )

    mqtt_broker: str | None = Field(
        default=None,
        description="mqtt:// (loopback only) or mqtts:// URL of the broker from which `nightshift "
        "up` takes messages; unset: none.",
    )
    mqtt_username: str | None = Field(default=None, description="User name at the broker.")
    mqtt_password: SecretStr | None = Field(default=None, description="Password at the broker.")
    mqtt_authority: Path | None = Field(
        default=None,
        description="PEM file with the certificate authority of an mqtts:// broker; unset: those "
        "of the system.",
    )
    mqtt_client: str = Field(
        default="nightshift",
        min_length=1,
        max_length=23,
        description="Client id, by which the broker keeps messages while the bridge is away; no "
        "two clients of a broker may have the same.",
    )
    mqtt_observations: Annotated[list[str], NoDecode] = Field(
        default=["nightshift/observations/+"],
        description="Topics, divided by commas, whose messages are observations; + stands for the "
        "name of the surrogate.",
    )
    mqtt_readings: Annotated[list[str], NoDecode] = Field(
        default=["nightshift/readings/+/+"],
        description="Topics, divided by commas, whose messages are hourly measurements or describe "
        "a building; the first + stands for the surrogate's name, the second for the building's.",
    )
    mqtt_mapping: Path | None = Field(
        default=None,
        description="YAML file that maps what sensors send under other names to the columns of "
        "docs/mqtt.md, by topic; unset: they send those columns.",
    )
    mqtt_events: Annotated[list[str], NoDecode] = Field(
        default=["nightshift/events/#"],
        description="Topics, divided by commas, whose messages become Prefect events; + and # as "
        "MQTT has them.",
    )

    keep_days: int = Field(
        default=90,
        ge=1,
        description="Days for which deliveries of webhooks, refused MQTT messages and events that "
        "Prefect has are kept; `cost-guard` deletes older ones.",
    )

    max_usd_per_hour: Decimal = Field(
        default=Decimal(100),
        gt=0,
        max_digits=12,
        decimal_places=4,
        description="No machine that costs more is rented, whatever the budget, dollars an hour.",
    )
    sky_allowed: Annotated[list[str], NoDecode] = Field(
        default=["*"],
        description="Where SkyPilot may rent, as patterns of cloud/region/zone divided by commas, "
        "e.g. `aws/eu-*,slurm/*`.",
    )
    sky_price_max_age_hours: float = Field(
        default=24, gt=0, description="Prices of a cloud's catalogue that are older deny, h."
    )
    sky_poll_seconds: float = Field(
        default=10, gt=0, description="How often SkyPilot is asked for a job's machine, s."
    )
    sky_sync_seconds: float = Field(
        default=5, gt=0, description="How often a node stores its log, progress and state, s."
    )
    sky_checkpoint_seconds: float = Field(
        default=60,
        gt=0,
        description="How often a node stores the newest checkpoint: a lost machine loses at most "
        "this much work, s.",
    )
    network_check: str | None = Field(
        default=None,
        description="A command that must succeed before a machine is rented, e.g. one that looks "
        "whether the VPN is up.",
    )
    allowed_networks: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="Networks (CIDR, divided by commas) in which a rented machine must have its "
        "addresses; unset: any.",
    )

    @field_validator(
        *("sky_allowed", "allowed_networks", "trusted_proxies", "notifications", "served_models"),
        *("mqtt_observations", "mqtt_readings", "mqtt_events"),
        mode="before",
    )
    @classmethod
    def _divided_by_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("*")
    @classmethod
    def _finite(cls, value: object) -> object:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("must be finite")
        return value

    @field_validator("mqtt_observations", "mqtt_readings", "mqtt_events")
    @classmethod
    def _topics(cls, value: list[str]) -> list[str]:
        """`+` is a level of its own, and `#` the last one (MQTT 3.1.1, 4.7.1)."""
        for topic in value:
            *above, last = topic.split("/")
            wild = [level for level in (*above, last) if {"+", "#"} & set(level)]
            if any(level not in ("+", "#") for level in wild) or "#" in above:
                raise ValueError(f"{topic!r} must have + as a whole level, and # as the last one")
        return value

    @field_validator("allowed_networks", "trusted_proxies")
    @classmethod
    def _known_networks(cls, value: list[str]) -> list[str]:
        for network in value:
            ip_network(network)
        return value

    @field_validator("mqtt_broker")
    @classmethod
    def _known_broker(cls, value: str | None) -> str | None:
        if value is None:
            return None
        broker = urlsplit(value)
        if broker.scheme not in ("mqtt", "mqtts") or not broker.hostname or broker.username:
            raise ValueError("must be like mqtts://broker.example:8883, without a password")
        _ = broker.port  # raises ValueError
        if broker.scheme == "mqtt" and broker.hostname not in LOOPBACK:
            raise ValueError(
                "only mqtts:// leaves this machine, since mqtt:// can be read and forged"
            )
        return value

    @field_validator("s3_endpoint_url")
    @classmethod
    def _encrypted_on_the_way(cls, value: str | None, info: ValidationInfo) -> str | None:
        endpoint = urlsplit(value or "")
        away = endpoint.scheme == "http" and endpoint.hostname not in LOOPBACK
        if away and not info.data.get("s3_plain_http"):
            raise ValueError(
                "http:// can be read and altered on the way: give an https:// URL, or set "
                "NIGHTSHIFT_S3_PLAIN_HTTP=true"
            )
        return value

    @field_validator("mqtt_observations", "mqtt_readings")
    @classmethod
    def _has_names(cls, value: list[str], info: ValidationInfo) -> list[str]:
        """A surrogate is named, and for readings a building, too."""
        names, said = (
            (1, "one level") if info.field_name == "mqtt_observations" else (2, "two levels")
        )
        for topic in value:
            if topic.split("/").count("+") != names or "#" in topic:
                raise ValueError(f"{topic!r} must have {said} + and no #")
        return value

    @field_validator("served_models")
    @classmethod
    def _names_of_models(cls, value: list[str]) -> list[str]:
        for name in value:
            if not re.fullmatch(MODEL_NAME, name):
                raise ValueError(f"{name!r} is no model's name; divide them by commas")
        return value

    @field_validator("notifications")
    @classmethod
    def _type_and_name(cls, value: list[str]) -> list[str]:
        for block in value:
            if not all(block.partition("/")):
                raise ValueError(f"{block!r} is not TYPE/NAME, e.g. slack-webhook/team")
        return value

    @field_validator(
        *(
            "home",
            "serving_folder",
            "gateway_certificate",
            "gateway_key",
            "mqtt_authority",
            "mqtt_mapping",
        )
    )
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().resolve() if value else value

    @field_validator("budget_timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        from zoneinfo import ZoneInfo

        try:
            ZoneInfo(value)
        except Exception as error:
            raise ValueError(f"{value!r} is no IANA time zone, e.g. Europe/Berlin") from error
        return value

    @field_validator("objects")
    @classmethod
    def _known_scheme(cls, value: str | None) -> str | None:
        if value and not re.match(r"file:///|s3://[^/]", value):
            raise ValueError("must be like file:///folder or s3://bucket/prefix")
        return value.rstrip("/") if value else value

    @property
    def objects_uri(self) -> str:
        return self.objects or (self.home / "objects").as_uri()


def variable(field: str) -> str:
    """The environment variable of a setting."""
    return f"NIGHTSHIFT_{field.upper()}"


def unknown_variables() -> list[str]:
    """What is wrong with each NIGHTSHIFT_* variable that is no setting, and so does nothing."""
    known = [variable(field) for field in Settings.model_fields]
    found = []
    for name in sorted(os.environ):
        if name.startswith("NIGHTSHIFT_") and name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.8)
            found.append(f"{name} is no setting" + (f"; {near[0]} is" if near else ""))
    return found


@cache
def settings() -> Settings:
    """The settings of this process. Raises SettingsError naming the variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        where, message = first_fault(error)
        meaning = Settings.model_fields[where[0]].description or ""
        raise SettingsError(f"{variable(where[0])}: {message}", meaning) from None
