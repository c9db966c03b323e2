"""Chat messages as files hold them: OpenAI's `role` and `content`, ShareGPT's `from` and `value`,
contents in parts, tool calls. No torch here."""

import ast
import json
import re
from typing import Any

from jobs.policy.data import ROLES

KEPT = ("tool_calls", "tool_call_id", "name", "reasoning_content")
"""What a chat template reads of a message beside its role and content."""
WRITTEN = re.compile(r"\s*\[?\s*\{\s*['\"](?:role|from|content|value)['\"]\s*:")
"""How a conversation begins that was written as a text."""
SPEAKS = re.compile(r"['\"](?:role|from)['\"]\s*:")
TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}


class LeftOut(ValueError):
    """A row that is whole but holds no preference; the reason is counted, the row is not broken."""


def is_conversation(value: object) -> bool:
    """Whether it is a list of messages, in OpenAI's or ShareGPT's form."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and ({"role", "from"} & set(m)) for m in value)
    )


def unwritten(value: Any) -> Any:
    """The conversation that a text holds as JSON or as Python prints it; anything else as it is.

    Raises ValueError for one that cannot be read, as pandas prints arrays of messages.
    """
    if not isinstance(value, str) or not WRITTEN.match(value) or not SPEAKS.search(value):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if is_conversation(found if isinstance(found, list) else [found]) else value
    raise ValueError("a conversation is written as a text that is no JSON: write it as JSON")


def messages_of(value: Any) -> list[dict[str, Any]]:
    """Messages with `role` and `content` as text. Raises ValueError saying what is wrong."""
    return [_message(message) for message in value]


def _message(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ValueError("each message needs `role` and `content`")
    role = message.get("role", message.get("from"))
    if not isinstance(role, str):
        raise ValueError("each message needs `role` and `content`")
    if role == "function_call":
        raise ValueError("a message is a tool call as ShareGPT has it: write it as `tool_calls`")
    content = message.get("content", message.get("value"))
    if content is None and message.get("tool_calls"):
        content = ""
    kept = {name: message[name] for name in KEPT if message.get(name)}
    return {"role": ROLES.get(role.lower(), role), "content": text_of(content)} | kept


def text_of(content: Any) -> str:
    """A text, or the text of all parts. Raises ValueError for parts that are no text."""
    if isinstance(content, list):
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            if kind != "text" or not isinstance(part.get("text"), str):
                raise ValueError(f"a content has a part of the type {kind!r}: only texts are read")
        return "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise ValueError("`content` of each message must be a text")
    return content


def answer_of(value: Any, name: str) -> str:
    """The text of an answer: a text, a message, or a list of one message."""
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list) and len(value) == 1:
        (message,) = messages_of(value)
        if message.get("tool_calls"):
            raise ValueError(f"`{name}` is a tool call: an answer must be a text")
        if message["role"] != "assistant":
            if message["role"] not in ROLES:
                raise ValueError(f"`{name}` has the role {message['role']!r}, not 'assistant'")
            raise LeftOut("conversations that do not end with an answer")
        return message["content"]
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be a text, or one message")
    return value


def split_conversations(chosen: Any, rejected: Any) -> tuple[list[dict[str, Any]], str, str]:
    """(prompt, chosen answer, rejected answer) of two conversations that differ in their last
    message. Raises LeftOut where they part before."""
    ours, theirs = messages_of(chosen), messages_of(rejected)
    if ours[:-1] != theirs[:-1]:
        raise LeftOut("conversations that part before their last answer")
    return ours[:-1], answer_of(ours[-1:], "chosen"), answer_of(theirs[-1:], "rejected")


def is_transcript(value: object) -> bool:
    """Whether it is a text of turns as HH-RLHF has them."""
    return isinstance(value, str) and bool(re.match(r"\s*Human:", value))


def transcript_messages(text: str) -> list[dict[str, Any]]:
    """The turns of a transcript, "\\n\\nHuman: ...\\n\\nAssistant: ...", as messages."""
    _, *turns = TURN.split("\n\n" + text.strip())
    pairs = zip(turns[::2], turns[1::2], strict=True)
    return [{"role": SPEAKERS[who], "content": said.strip()} for who, said in pairs]
