"""What sensors send under names of their own, as columns of docs/mqtt.md: a template each.

The file of NIGHTSHIFT_MQTT_MAPPING has them by topic, in YAML:

    nightshift/readings/house/+:
      time: "{{ hour }}"
      temperature_front: "{{ data.temperature }}"
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import TemplateError
from paho.mqtt.client import topic_matches_sub
from pydantic import TypeAdapter, ValidationError

from deployments import strict_yaml
from deployments.webhooks.mapping import compiled, rendered
from infra.errors import SettingsError, first_fault
from infra.settings import settings

Mappings = dict[str, dict[str, str]]
"""Topic, with + and # as MQTT has them → column → Jinja template."""
NAMED = "NIGHTSHIFT_MQTT_MAPPING"


def mapped(topic: str, content: Any) -> Any:
    """The content of a message by the first mapping of its topic; as it is where there is none.

    Raises Malformed where a template finds nothing.
    """
    file = settings().mqtt_mapping
    for pattern, columns in (read(file) if file else {}).items():
        if topic_matches_sub(pattern, topic):
            hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
            context = {"data": content, "topic": topic, "hour": hour.isoformat()}
            return {name: _number(text) for name, text in rendered(columns, context).items()}
    return content


@lru_cache(maxsize=1)
def read(file: Path) -> Mapping[str, dict[str, str]]:
    """The mappings of a file. Raises SettingsError: what is wrong in it."""
    try:
        mappings = TypeAdapter(Mappings).validate_python(strict_yaml.load(file.read_text("utf-8")))
        for columns in mappings.values():
            for template in columns.values():
                compiled(template)
    except ValidationError as error:
        where, message = first_fault(error)
        reason = f"{'.'.join(where)}: {message}".lstrip(": ")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TemplateError) as error:
        reason = " ".join(str(error).split())
    else:
        return mappings
    raise SettingsError(f"{NAMED}: {file}: {reason}", "docs/mqtt.md shows such a file.") from None


def _number(text: str) -> Any:
    with suppress(ValueError):
        return float(text)
    return text
