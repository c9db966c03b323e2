"""Settings that nothing could work with are refused by their names."""

import pytest

from infra.errors import SettingsError
from infra.settings import settings


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("POLL_SECONDS", "inf", "must be finite"),
        ("STOP_GRACE_SECONDS", "inf", "must be finite"),
        ("SKY_PRICE_MAX_AGE_HOURS", "inf", "must be finite"),
        ("MQTT_EVENTS", "plant/#/x", "# as the last one"),
        ("MQTT_EVENTS", "plant#", "# as the last one"),
        ("MQTT_READINGS", "a+/+/+", "+ as a whole level"),
        ("SERVED_MODELS", "mine;other", "divide them by commas"),
    ],
)
def test_a_wrong_setting_is_named(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"NIGHTSHIFT_{name}", value)
    settings.cache_clear()
    try:
        with pytest.raises(SettingsError) as caught:
            settings()
    finally:
        settings.cache_clear()
    assert f"NIGHTSHIFT_{name}: " in caught.value.message and says in caught.value.message
