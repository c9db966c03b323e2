"""A real Mosquitto of a test's own, and what sensors publish there."""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from infra.keeper import free_port
from jobs.surrogate.config import DESIGN, WEATHER
from tests.helpers.debian import program

CONFIGURATION = """
user root
listener {port} 127.0.0.1
persistence true
persistence_location {folder}/
max_queued_messages 0
log_dest stderr
"""


@dataclass
class Broker:
    """One Mosquitto, which keeps its sessions in `folder` when it is stopped and started."""

    folder: Path
    more: str = "allow_anonymous true"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        file = self.folder / "mosquitto.conf"
        text = CONFIGURATION.format(port=self.port, folder=self.folder) + self.more
        file.write_text(text + "\n")
        with (self.folder / "mosquitto.log").open("ab") as log:
            command = [program("mosquitto", "mosquitto"), "-c", str(file)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None, self.log()
                time.sleep(0.05)

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=20)

    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text()

    def publish(self, *messages: tuple[str, str | bytes]) -> None:
        """Publish (topic, payload) pairs, and return once the broker has them all."""
        sensor = Client(CallbackAPIVersion.VERSION2)
        sensor.connect("127.0.0.1", self.port)
        sensor.loop_start()
        for sent in [sensor.publish(topic, payload, qos=1) for topic, payload in messages]:
            sent.wait_for_publish(30)
            assert sent.is_published()
        sensor.disconnect()
        sensor.loop_stop()


@contextmanager
def open_broker(folder: Path, more: str = "allow_anonymous true") -> Iterator[Broker]:
    broker = Broker(folder, more)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def building_year(number: int) -> dict[str, float]:
    """An observation; another one for each number."""
    inputs = {q.name: (q.low + q.high) / 2 for q in DESIGN + WEATHER}
    return inputs | {"heating_front": 50.0 + number / 1000, "temperature_front": 21.5}
