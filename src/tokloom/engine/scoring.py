"""How a prediction rates a given continuation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokloom.engine.open_request import account, prefill
from tokloom.engine.request import Score
from tokloom.engine.sampling import check_finite
from tokloom.kv.store import Step

if TYPE_CHECKING:
    from tokloom.decode.prediction import Prediction
    from tokloom.ledger import Ledger


def teacher_forced(prediction: Prediction, tokens: Sequence[int], targets: Sequence[int], ledger: Ledger) -> Score:
    """The log-probability and rank of each target after the prompt's tokens, one a pass, as if they were generated.

    tokens: the prompt, in the model's tokens. targets: at least one, in the prediction's units.

    Raises LogitsError if logits are NaN or infinite.
    """
    before = len(prediction.prompt(list(tokens)))
    device = prediction.host.model.device
    logits = prefill(prediction, list(tokens), ledger, None)
    logprobs, ranks = [], []
    with ledger.stage("decode", "teacher_forced") as row:
        for i, target in enumerate(targets):
            check_finite(float(logits.max()))
            scores = logits.log_softmax(-1)
            logprobs.append(float(scores[target]))
            ranks.append(int((scores > scores[target]).sum()))
            if i + 1 < len(targets):
                logits = prediction.rows([target], Step((before + i,), device))[0]
                prediction.accept([0])
                row.forward_passes += 1
        row.tokens_in = row.tokens_out = len(targets)
    row.counts = dict(prediction.counts)
    account(ledger.row("attention"), row, prediction)
    return Score(tuple(targets), len(tokens), tuple(logprobs), tuple(ranks), ledger)
