"""What a rollout asks the live endpoint of this home: what it serves, and answers of a version."""

from typing import Any

import httpx

from infra.errors import ServiceUnavailable
from infra.serving.endpoint import address_file
from infra.serving.secret import rollout_keys

SECONDS = 60.0
"""For one answer."""
Prompt = str | list[dict[str, Any]]
"""A text, or the messages of a chat."""


class Client:
    """The endpoint of `name`. Raises ServiceUnavailable where none runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.remedy = f"Start one: `nightshift serve policy --name {name}`."
        try:
            address = address_file(name).read_text()
        except FileNotFoundError:
            raise ServiceUnavailable(f"no endpoint serves {name} here", self.remedy) from None
        self.keys = rollout_keys()
        self.http = httpx.Client(base_url=address, timeout=SECONDS, trust_env=False)
        try:
            self.state()
        except ServiceUnavailable:
            self.http.close()
            raise

    def state(self) -> dict[str, Any]:
        """What is served: `live`, `canary`, `share`, `refused`, `error`, `under_way`.

        Raises ServiceUnavailable where it does not answer.
        """
        try:
            told = self.http.get("/readyz", timeout=5).json()
            if told["model"] != self.name:
                raise ValueError(f"it serves {told['model']}")
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ServiceUnavailable(
                f"the endpoint of {self.name} does not answer: {error}", self.remedy
            ) from None
        return told

    def ask(self, side: str, prompt: Prompt, tokens: int) -> httpx.Response:
        """The answer of the champion's or the canary's `side`, with so many tokens at most.

        Raises httpx.HTTPError where none comes.
        """
        path = "completions" if isinstance(prompt, str) else "chat/completions"
        asked = {"prompt": prompt} if isinstance(prompt, str) else {"messages": prompt}
        body = asked | {"model": self.name, "max_tokens": tokens}
        bearer = {"Authorization": f"Bearer {self.keys[side]}"}
        return self.http.post(f"/v1/{path}", json=body, headers=bearer)
