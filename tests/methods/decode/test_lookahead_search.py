"""Lookahead search sees where a beginning leads."""

from __future__ import annotations

from tests.decode.searching import next_logprobs
from tokloom import Engine, Sampling
from tokloom.engine.text_stream import TextStream
from tokloom.models.language_model import LanguageModel

PROMPT = "one two three four five six seven"


def _follow(model: LanguageModel, prompt: list[int], tokens: list[int], length: int) -> list[int]:
    """Greedy decoding of `length` tokens in all, begun by `tokens`."""
    tokens = list(tokens)
    while len(tokens) < length and not (tokens and tokens[-1] in model.eos_ids):
        tokens.append(int(next_logprobs(model, [*prompt, *tokens]).argmax()))
    return tokens


def _text(model: LanguageModel, tokens: list[int]) -> str:
    """As a search sees it: without an incomplete last character."""
    stream = TextStream()
    for token in tokens:
        stream.push(model.vocabulary.token_bytes[token])
    return stream.text


def test_first_token_is_chosen_by_the_whole_output(tiny_llama: LanguageModel) -> None:
    """With a lookahead to the end and one judgement, the output is the best greedy continuation of all first tokens."""
    prompt = tiny_llama.encode(PROMPT)
    firsts = next_logprobs(tiny_llama, prompt).topk(4).indices.tolist()
    rollouts = [_follow(tiny_llama, prompt, [token], 8) for token in firsts]
    texts = [_text(tiny_llama, each) for each in rollouts]

    def value(text: str) -> float:
        return float(sum(ord(char) * i for i, char in enumerate(text)) % 997)

    best = max(range(4), key=lambda i: value(texts[i]))
    engine = Engine(tiny_llama, search="lookahead_search:width=1,expansions=4,stride=8,lookahead=8", verifier=value)
    result = engine.generate(PROMPT, sampling=Sampling(max_new_tokens=8))
    assert list(result.tokens) == rollouts[best]


def test_finds_what_beam_search_of_the_same_width_misses(tiny_llama: LanguageModel) -> None:
    """The function sees only the end of the output: beginnings tell nothing, continuations all."""
    prompt = tiny_llama.encode(PROMPT)
    firsts = next_logprobs(tiny_llama, prompt).topk(4).indices.tolist()
    rollouts = [_follow(tiny_llama, prompt, [token], 8) for token in firsts]
    wanted = _text(tiny_llama, rollouts[3])

    def value(text: str) -> float:
        return float(text == wanted)

    text = PROMPT
    sampling = Sampling(max_new_tokens=8)
    options = "width=1,expansions=4,stride=1"
    beam = Engine(tiny_llama, search=f"beam_search:{options}", verifier=value).generate(text, sampling=sampling)
    ahead = Engine(tiny_llama, search=f"lookahead_search:{options},lookahead=8", verifier=value)
    assert list(ahead.generate(text, sampling=sampling).tokens) == rollouts[3]
    assert list(beam.tokens) != rollouts[3]
