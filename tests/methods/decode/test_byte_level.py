"""Next-byte distributions against sums over all covers, enumerated with the tokenizer and transformers alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests import tiny_models
from tokloom import Engine, Sampling
from tokloom.kv.store import Step
from tokloom.models.language_model import LanguageModel
from tokloom.tokenize.byte_vocabulary import END

PROBES = (b"", b"a", b"e", b" ", b"0", b"!", b"\n", b" a")
SPREAD = [
    *range(0x80, 0x800, 9), 0x2013, *range(0x800, 0xD800, 777), 0xE000, 0xFF01, *range(0x10000, 0x110000, 2048),
    *range(0x1F000, 0x20000, 32), *range(0x1F640, 0x1F680),
]  # fmt: skip
CHARACTERS = [chr(point).encode() for point in SPREAD]


@pytest.fixture(scope="module")
def small() -> LanguageModel:
    """Three letters, nine merges and a random model: few enough for every sequence to be looked at."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    texts = ["abcab", "aab", "caa", "bca", "aaa", "abab"] * 3
    backend.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=13, special_tokens=["<end>"], show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    config = LlamaConfig(**tiny_models.shape(tokenizer, 2))
    return LanguageModel("small", tiny_models.random_model(LlamaForCausalLM, config), tokenizer)


class Twin:
    """The definition, slowly: after the tokens `root`, all covers of what follows."""

    def __init__(self, model: LanguageModel, root: list[int]) -> None:
        self.model, self.root, self.table = model, root, model.vocabulary.token_bytes
        self.before = model.decode(root)

    def can_follow(self, tokens: list[int]) -> bool:
        """The tokenizer writes a text that begins with these tokens."""
        data = b"".join(self.table[token] for token in tokens)
        begun = data[len(data.decode(errors="ignore").encode()) :]  # of a character
        endings = [char.removeprefix(begun) for char in CHARACTERS if char.startswith(begun)] if begun else PROBES
        for ending in endings:
            try:
                text = self.before + (data + ending).decode()
            except UnicodeDecodeError:
                continue
            if self.model.encode_prompt(text, chat=False)[len(self.root) :][: len(tokens)] == tokens:
                return True
        return False

    def after(self, tokens: list[int]) -> dict[int, float]:
        """Chances of the tokens that the tokenizer can write next, and of the end."""
        with torch.no_grad():
            logits = self.model.model(torch.tensor([self.root + tokens])).logits[0, -1].double()
        probabilities = {
            t: float(logits[t]) for t, data in enumerate(self.table) if data and self.can_follow([*tokens, t])
        }
        text = b"".join(self.table[token] for token in tokens)
        if (
            self.model.encode_prompt(self.before + text.decode(errors="replace"), chat=False)[len(self.root) :]
            == tokens
        ):
            probabilities |= {eos: float(logits[eos]) for eos in self.model.eos_ids}
        top = max(probabilities.values())
        total = sum(math.exp(value - top) for value in probabilities.values())
        return {token: math.exp(value - top) / total for token, value in probabilities.items()}

    def covers(self, data: bytes) -> Iterator[tuple[list[int], float]]:
        def extend(tokens: list[int], probability: float, rest: bytes) -> Iterator[tuple[list[int], float]]:
            for token, share in self.after(tokens).items():
                text = self.table[token]
                if text and text.startswith(rest):
                    yield [*tokens, token], probability * share
                elif text and rest.startswith(text):
                    yield from extend([*tokens, token], probability * share, rest[len(text) :])

        return extend([], 1.0, data)

    def next_bytes(self, data: bytes) -> tuple[np.ndarray, float]:
        """P(xb) of every byte and the end, (257,), and P(x)."""
        out = np.zeros(END + 1)
        whole = 0.0
        for tokens, probability in self.covers(data) if data else [([], 1.0)]:
            whole += probability
            text = b"".join(self.table[token] for token in tokens)
            if len(text) > len(data):
                out[text[len(data)]] += probability
                continue
            for token, share in self.after(tokens).items():
                out[self.table[token][0] if self.table[token] else END] += probability * share
        return out, whole


def predicted(
    model: LanguageModel, prompt: str, data: bytes, spec: str = "byte_level"
) -> tuple[list[torch.Tensor], Any]:
    """Log-probabilities after the prompt and after each byte."""
    engine = Engine(model, predictor=spec)
    prediction = engine._predict(len(data))
    tokens = model.encode_prompt(prompt, chat=False)
    prediction.prompt(tokens)
    rows = [prediction.prefill(tokens, lambda done: None)]
    for byte in data:
        rows.append(prediction.rows([byte], Step((0,), model.device))[0])
        prediction.accept([0])
    return rows, prediction


@pytest.mark.parametrize("text", ["abcaabab", "aaaaaaaa", "bbcabcca", "cabababc"])
def test_a_small_vocabulary_exhaustively(small: LanguageModel, text: str) -> None:
    root = small.encode(text)[:1]
    twin = Twin(small, root)
    start = len(small.vocabulary.token_bytes[root[0]])
    data = text.encode()
    rows, prediction = predicted(small, text, b"aabc")
    rest = data[start:]
    for byte, row in zip([None, *b"aabc"], rows, strict=True):
        rest += b"" if byte is None else bytes([byte])
        expected, whole = twin.next_bytes(rest)
        assert expected.sum() == pytest.approx(whole)  # the lemma: covers of x pass their chances on to those of xb
        np.testing.assert_allclose(row.exp(), expected / expected.sum(), atol=2e-5)
    assert prediction.counts["read rows"] < 40


@pytest.mark.parametrize(("family", "prompt", "data"), [
    ("tiny_llama", "one two thr", "ee fo"), ("tiny_llama", "seven  ", " eight"), ("tiny_llama", "x = f(41) #caf", "é'"),
    ("tiny_gemma3", "one two thr", "ee fo"), ("tiny_gemma3", "a\n", "\n\n b"), ("tiny_gemma3", "one 🙂", "🙃 "),
])  # fmt: skip
def test_tokenizers_that_cut_and_fall_back(family: str, prompt: str, data: str, request: pytest.FixtureRequest) -> None:
    """Pieces, white space whose owner is open, added tokens, characters without a token."""
    model: LanguageModel = request.getfixturevalue(family)
    tokens = model.encode_prompt(prompt, chat=False)
    twin = Twin(model, tokens[:1])
    rest = b"".join(model.vocabulary.token_bytes[token] for token in tokens[1:])
    rows, _ = predicted(model, prompt, data.encode())
    expected, _ = twin.next_bytes(rest)
    np.testing.assert_allclose(rows[0].exp(), expected / expected.sum(), atol=2e-5)
    expected, _ = twin.next_bytes(rest + data.encode())
    np.testing.assert_allclose(rows[-1].exp(), expected / expected.sum(), atol=2e-5)


@pytest.mark.parametrize("family", ["small", "tiny_llama", "tiny_gemma3"])
def test_bytes_and_tokens_give_a_text_the_same_chance(family: str, request: pytest.FixtureRequest) -> None:
    """A text with its end: the product over bytes is P(its encoding, end), and `encoding` gives the factors."""
    model: LanguageModel = request.getfixturevalue(family)
    prompt, text = ("abca", "abcbaab") if family == "small" else ("one two", " three four\n\nsix")
    tokens = model.encode_prompt(prompt, chat=False)
    rows, prediction = predicted(model, prompt, text.encode())
    total = sum(float(row[byte]) for row, byte in zip(rows, text.encode(), strict=False)) + float(rows[-1][END])
    twin = Twin(model, tokens[:1])
    whole = model.encode_prompt(prompt + text, chat=False)
    factors = [math.log(twin.after(whole[1:i])[whole[i]]) for i in range(1, len(whole))]
    ending = math.log(sum(twin.after(whole[1:]).get(eos, 0.0) for eos in model.eos_ids))
    rest = b"".join(model.vocabulary.token_bytes[token] for token in tokens[1:])
    before = math.log(sum(probability for _, probability in twin.covers(rest))) if rest else 0.0
    assert total == pytest.approx(sum(factors) + ending - before, abs=1e-3)
    own, logprobs = prediction.encoding()
    assert len(own) >= len(model.encode(text)) - 1
    assert own == whole[-len(own) :]
    assert logprobs == pytest.approx(factors[-len(own) :], abs=1e-3)


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3", "tiny_qwen3"])
def test_generating(family: str, request: pytest.FixtureRequest) -> None:
    """Greedy text is the likeliest byte each time; a seed repeats; a constraint and stop strings hold."""
    model: LanguageModel = request.getfixturevalue(family)
    engine = Engine(model, predictor="byte_level")
    prompt = "one two three fo"
    result = engine.generate(prompt, sampling=Sampling(max_new_tokens=16))
    assert bytes(t for t in result.tokens if t < END).decode(errors="replace") == result.text
    rows, _ = predicted(model, prompt, bytes(t for t in result.tokens[:-1]))
    assert [int(row.argmax()) for row in rows] == list(result.tokens)
    seeded = Sampling(max_new_tokens=16, temperature=1.0, top_p=0.9, seed=3)
    assert engine.generate(prompt, sampling=seeded).tokens == engine.generate(prompt, sampling=seeded).tokens
    chosen = engine.generate(prompt, constraint='choices:options=["ur five","rty"]')
    assert chosen.text in ("ur five", "rty")
    assert chosen.stop_reason == "end"
    assert result.components["predictor"] == "byte_level"
    assert result.ledger.row("decode").counts["read rows"] > 0


def test_pruned_trees_read_less_and_stay_near(tiny_llama: LanguageModel) -> None:
    prompt, data = "one two three four five s", b"ix seven eight"
    exact, whole = predicted(tiny_llama, prompt, data)
    near, pruned = predicted(tiny_llama, prompt, data, "byte_level:minimum=0.05")
    single, narrow = predicted(tiny_llama, prompt, data, "byte_level:beam=1")
    assert pruned.counts["read rows"] < whole.counts["read rows"]
    assert len(narrow.covers.open) == 1
    for a, b in zip(exact, near, strict=True):
        assert float((a.exp() - b.exp()).abs().sum()) < 0.25
    assert all(float(row.exp().sum()) == pytest.approx(1) for row in [*near, *single])


def test_what_no_tokenizer_writes_ends_the_text(tiny_llama: LanguageModel) -> None:
    rows, _ = predicted(tiny_llama, "one", b"\xff")
    assert float(rows[0][0xFF]) == -math.inf
    assert int(rows[1].argmax()) == END


WORDS = ["fascinating", "Wednesday", "engineers", "mathematics"]
SENTENCES = [
    "The story that she told us was absolutely fascinating.", "We meet every week on Monday and Wednesday.",
    "The bridge was built by engineers.", "At school he was always good at mathematics.",
]  # fmt: skip


@pytest.mark.model
def test_effect_prompts_that_end_inside_a_token(smollm2: LanguageModel) -> None:
    """How likely the rest of a cut word is: bytes above token healing above plain tokenization, on the mean."""
    engine, plain = Engine(smollm2, predictor="byte_level"), Engine(smollm2)
    table = smollm2.vocabulary.token_bytes
    means: dict[str, list[float]] = defaultdict(list)
    for sentence, word in zip(SENTENCES, WORDS, strict=True):
        start = sentence.index(word)
        for cut in range(2, len(word) - 1, 2):
            prompt, rest = sentence[: start + cut], sentence[start + cut :]
            means["bytes"].append(sum(engine.score(prompt, rest).logprobs))
            means["plain"].append(sum(plain.score(prompt, rest).logprobs))
            means["healed"].append(healed(smollm2, plain, prompt, rest, table))
    bytes_, healing, tokens = (float(np.mean(means[name])) for name in ("bytes", "healed", "plain"))
    assert bytes_ > healing + 0.1
    assert healing > tokens + 1


def healed(model: LanguageModel, engine: Engine, prompt: str, rest: str, table: list[bytes]) -> float:
    """Token healing: the prompt's last token is taken back, and the next one must begin with its bytes."""
    tokens = model.encode(prompt)
    short = model.decode(tokens[:-1])
    prefix = table[tokens[-1]]
    prediction = engine._predict(1)
    logprobs = prediction.prefill(tokens[:-1], lambda done: None).log_softmax(-1)
    fits = [token for token, data in enumerate(table) if data.startswith(prefix)]
    return sum(engine.score(short, prefix.decode() + rest).logprobs) - float(logprobs[fits].logsumexp(0))
