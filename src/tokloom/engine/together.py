"""Several requests of one engine, decoded pass by pass together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tokloom.engine.open_request import OpenRequest
from tokloom.engine.request import Result


def run_together(opens: Sequence[Callable[[], OpenRequest]], at_once: int) -> list[Result]:
    """The results, in order. At most `at_once` are under way; where one ends, the next begins.

    opens: makes each request when its turn comes. A shared pass counts in each one's ledger, with all of its time.
    """
    results: dict[int, Result] = {}
    waiting: Iterator[int] = iter(range(len(opens)))
    running: dict[int, OpenRequest] = {}
    while True:
        for i in waiting:
            request = opens[i]()
            if request.writer is not None:  # it goes its own way
                for _ in request.run(None):
                    pass
                results[i] = request.finish()
                continue
            running[i] = request
            logits = request.prefill(None)
            decoding = request.start()
            with request.ledger.clock(request.row):
                decoding.begin(logits)
            if request.decoding.stop_reason is None and len(running) >= at_once:
                break
            _collect(running, results)
        if not running:
            return [results[i] for i in range(len(opens))]
        _pass(list(running.values()))
        _collect(running, results)


def _collect(running: dict[int, OpenRequest], results: dict[int, Result]) -> None:
    """Moves requests that have ended to the results."""
    for i, request in list(running.items()):
        if request.decoding.stop_reason is not None:
            request.decoding.stream.finish()
            results[i] = request.finish()
            del running[i]


def _pass(requests: list[OpenRequest]) -> None:
    """The next tokens of each."""
    asked = []
    beside = len(requests)  # a row of each at least
    for request in requests:
        with request.ledger.clock(request.row):
            rows = request.decoding.ask(beside - 1)
        beside -= 1
        if rows is not None:
            asked.append((request, rows))
            beside += len(rows[0])
    if not asked:
        return
    predictions = [(request.prediction, *rows) for request, rows in asked]
    with asked[0][0].ledger.clock(asked[0][0].row):
        before = asked[0][0].row.seconds
        logits = predictions[0][0].rows_together(predictions)
    spent = asked[0][0].row.seconds - before
    for request, _ in asked[1:]:
        request.row.seconds += spent
    for (request, _), each in zip(asked, logits, strict=True):
        with request.ledger.clock(request.row):
            request.decoding.answer(each)
