"""From a question and documents to a prompt: read, select what fits the budget, put together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokloom.context.selector import ContextRequest, ContextSelector, Document, Selection
from tokloom.engine.prompt import question_over_context
from tokloom.errors import ArgumentError, BudgetError
from tokloom.ledger import Ledger, Saving

if TYPE_CHECKING:
    from tokloom.models.embedder import Embedder
    from tokloom.models.language_model import LanguageModel

MINIMUM_CONTEXT = 32
"""Tokens that a selection must at least have: less can't hold a sentence with its citation."""


def prompt_over(
    documents: Sequence[Document | str | Path],
    question: str,
    selector: ContextSelector,
    model: LanguageModel,
    embed: Embedder,
    new_tokens: int,
    ledger: Ledger,
) -> tuple[list[int], Selection]:
    """The prompt's tokens and what was selected, within the selector's budget.

    Raises DocumentError, BudgetError and, for an empty question, ArgumentError."""
    if not question.strip():
        raise ArgumentError("prompt", question, "a question that is not empty")
    texts = read_all(documents)
    budget, window = selector.budget, model.window
    if budget + new_tokens > window:
        raise BudgetError(
            "budget", budget, f"at most {window - new_tokens}: {model.name} has a window of "
            f"{window} tokens, and max_new_tokens takes {new_tokens} of it",
        )  # fmt: skip
    instruction = len(question_over_context(model, question, ""))
    if instruction > budget:
        raise BudgetError(
            "budget", budget, f"at least {instruction + MINIMUM_CONTEXT}: the question with its instructions alone "
            f"takes {instruction} tokens", "Raise the budget or shorten the question.",
        )  # fmt: skip
    if budget - instruction < MINIMUM_CONTEXT:
        raise BudgetError(
            "budget", budget, f"at least {instruction + MINIMUM_CONTEXT}: {instruction} tokens for the question "
            f"with its instructions and {MINIMUM_CONTEXT} for the smallest context",
        )  # fmt: skip
    with ledger.stage("context", selector.name) as row:
        row.tokens_in = sum(model.count(document.text) for document in texts)
        left = budget - instruction
        while True:
            request = ContextRequest(question, texts, left, model.count, embed, model)
            selection = selector.select(request)
            context = selection.render()
            tokens = question_over_context(model, question, context)
            if len(tokens) <= budget:
                break
            left -= len(tokens) - budget  # tokens can differ where context and template meet
        row.tokens_out = model.count(context)
        row.counts = {"spans": len(selection.spans), "considered": len(selection.trace)}
        row.savings = [Saving("prompt tokens", row.tokens_in, row.tokens_out)]
    with ledger.stage("tokenize", "model") as tokenized:
        tokens = question_over_context(model, question, context)
        tokenized.tokens_in = row.tokens_out
        tokenized.tokens_out = len(tokens)
        tokenized.counts = {"instruction": len(tokens) - row.tokens_out}
    return tokens, selection


def read_all(documents: Sequence[Document | str | Path]) -> list[Document]:
    """`Document`s as they are, files and folders through the reader."""
    from tokloom.context.reader import read

    if isinstance(documents, (str, Path, Document)):
        documents = [documents]
    texts: list[Document] = []
    for item in documents:
        if not isinstance(item, (str, os.PathLike, Document)):
            raise ArgumentError("documents", item, "paths of files or folders, or Documents")
        texts.extend([item] if isinstance(item, Document) else read(item))
    if not texts:
        raise ArgumentError("documents", list(documents), "at least one document")
    return texts
