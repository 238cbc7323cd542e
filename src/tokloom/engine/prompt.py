"""Turns a question, messages and selected context into the prompt's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokloom.errors import ArgumentError

if TYPE_CHECKING:
    from tokloom.models.language_model import LanguageModel

ROLES = ("system", "user", "assistant", "tool")


def check_messages(messages: Sequence[dict[str, str]]) -> None:
    """Raises ArgumentError unless every message has a known role and text content."""
    if not messages:
        raise ArgumentError("messages", list(messages), "at least one message")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ArgumentError(f"messages[{i}]", message, '{"role": ..., "content": text}')
        if message.get("role") not in ROLES:
            raise ArgumentError(f"messages[{i}].role", message.get("role"), "one of " + ", ".join(ROLES))


def question_over_context(model: LanguageModel, question: str, context: str) -> list[int]:
    """The prompt for a question over selected passages; through the chat template if the model has one."""
    if model.has_chat_template:
        content = f"{context}\n\nUsing the passages above, answer in one short sentence.\nQuestion: {question}"
        return model.chat_tokens([{"role": "user", "content": content}])
    return model.encode_prompt(f"{context}\n\nQuestion: {question}\nAnswer:", chat=False)
