"""A request whose output is found by a search."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

from tokloom import registry
from tokloom.decode.search import Candidate, Search, Verifier
from tokloom.engine.branch import Branch
from tokloom.engine.request import Chunk
from tokloom.errors import ArgumentError, CompositionError
from tokloom.ledger import Row

if TYPE_CHECKING:
    from tokloom.engine.open_request import OpenRequest, Progress
    from tokloom.models.language_model import LanguageModel


class FunctionVerifier(Verifier):
    """A user's own function of the text as a verifier."""

    name = "function"

    def __init__(self, function: Callable[[str], float]) -> None:
        self.function = function

    def score(self, model: LanguageModel, candidates: Sequence[Candidate]) -> list[float]:
        scores = [self.function(each.text) for each in candidates]
        for score in scores:
            if not isinstance(score, (int, float)) or score != score:  # NaN is neither better nor worse than others
                raise ArgumentError("verifier", score, "a function that gives each text a number")
        return [float(score) for score in scores]


def verifier_of(search: Search, given: str | Verifier | Callable[[str], float] | None) -> Verifier:
    """The verifier of a search: the one given, or the one in its options."""
    if given is None:
        given = str(getattr(search, "verifier", "log_probability"))
    if callable(given) and not isinstance(given, Verifier):
        return FunctionVerifier(given)
    return registry.build(given, Verifier, "verifier")


def check_search(search: Search | None, verifier: str | Verifier | Callable[[str], float] | None) -> None:
    """Raises CompositionError if these don't go together, UsageError if there is no such verifier."""
    if search is not None:
        verifier_of(search, verifier)
    elif verifier is not None:
        raise CompositionError("a verifier", "decoding without a search", "there is nothing to choose among")


def searched(
    search: Search, verifier: Verifier, request: OpenRequest, progress: Progress | None
) -> Generator[Chunk, None, Branch]:
    """Runs one request; the text comes in one piece when it has been found."""
    logits = request.prefill(progress)
    drafting = request.drafting
    drafter = f" with {drafting.drafter.name}" if drafting is not None else ""
    row = Row("decode", f"{search.name} by {verifier.name}{drafter}")
    request.ledger.rows.append(row)
    judged = 0

    def judge(branches: Sequence[Branch]) -> list[float]:
        nonlocal judged
        judged += len(branches)
        candidates = [
            Candidate(request.tokens, each.text, each.tokens, each.logprob, each.ended is not None) for each in branches
        ]
        return verifier.score(request.prediction.host.model, candidates)

    if drafting is not None:
        _ = drafting.curve  # a first measurement is not this request's time
    with request.ledger.clock(row):
        prompt = request.prediction.prompt(request.tokens)
        if drafting is not None:
            drafting.state.read(prompt)
        root = Branch(request.prediction, prompt, logits, request.sampling, request.matcher, drafting)
        found = search.run(root, judge)
        found.stream.finish()
    row.tokens_out, row.forward_passes = len(found.tokens), found.account.passes
    account = found.account
    row.counts = {
        "judged": judged, "branches": account.branches, "rows": account.rows, "drafted": account.drafted,
        "accepted": account.accepted, **request.prediction.counts,
    }  # fmt: skip
    yield Chunk(found.text, found.tokens)
    return found
