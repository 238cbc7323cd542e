"""What a comparison asks of other engines, and what they refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tokloom import Sampling
from tokloom.compare.placement import contenders, engine_for, fixed_parts
from tokloom.errors import CompositionError
from tokloom.evaluate.peer import Answer, Peer, PeerEngine, Session
from tokloom.models.language_model import LanguageModel


@dataclass
class Echo(Peer):
    """Says the prompt's last tokens again, then ends."""

    started: list[LanguageModel] = field(default_factory=list)
    name = "echo"

    def start(self, model: LanguageModel) -> Session:
        self.started.append(model)
        end = min(model.eos_ids)

        class Session:
            def answer(self, tokens: Sequence[int], count: int) -> Answer:
                said = (*tokens[-3:], end)[:count]
                return Answer(said, 0.5, 0.25, len(said) - 1)

        return Session()


def test_a_result_like_an_engine_s(tiny_llama: LanguageModel) -> None:
    peer = Echo()
    engine = PeerEngine(tiny_llama, peer)
    assert not peer.started  # not before it is asked
    whole = engine.generate("one two three")
    cut = engine.generate("one two three", sampling=Sampling(max_new_tokens=2))
    assert peer.started == [tiny_llama]
    tokens = tuple(tiny_llama.encode_prompt("one two three", chat=False))
    assert whole.tokens[:3] == tokens[-3:] == (*cut.tokens, tokens[-1])
    assert (whole.stop_reason, cut.stop_reason) == ("end", "length")
    assert (whole.prompt_tokens, whole.text) == (len(tokens), tiny_llama.decode(tokens[-3:]))
    prefill, decode = whole.ledger.row("attention"), whole.ledger.row("decode")
    assert (prefill.seconds, decode.seconds, decode.forward_passes, decode.tokens_out) == (0.5, 0.25, 3, 4)


def test_messages_go_through_the_chat_template(tiny_chat_llama: LanguageModel) -> None:
    messages = [{"role": "user", "content": "one two"}]
    result = PeerEngine(tiny_chat_llama, Echo()).generate(messages=messages)
    assert result.prompt_tokens == len(tiny_chat_llama.chat_tokens(messages))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"documents": ["text"]}, "documents"),
        ({"constraint": "choices"}, "a constraint"),
        ({"sampling": Sampling(temperature=1.0)}, "a temperature"),
        ({"sampling": Sampling(stop=("x",))}, "stop strings"),
    ],
)
def test_what_it_can_t_do_is_refused(options: dict[str, Any], named: str, tiny_llama: LanguageModel) -> None:
    with pytest.raises(CompositionError, match=named):
        PeerEngine(tiny_llama, Echo()).generate("one", **options)
    with pytest.raises(CompositionError, match="scores given texts"):
        PeerEngine(tiny_llama, Echo()).score("one", "two")


@pytest.mark.parametrize("stage", ["attention", "decode"])
def test_it_is_a_row_of_any_stage(stage: str, tiny_llama: LanguageModel) -> None:
    (row,) = contenders(stage, ["transformers_generate"])
    assert row.place == "peer"
    assert isinstance(engine_for(tiny_llama, row, {}), PeerEngine)
    assert fixed_parts(row, {"kv": "int8"}) == {}
