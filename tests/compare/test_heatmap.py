"""The page of what policies attend to: its shades, its text, and that it needs nothing else."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
import torch

from tests.compare.test_report import Page
from tokloom.compare.heatmap import STRONG, dense_shades, readable, shades_of, write_heatmap
from tokloom.compare.placement import contenders
from tokloom.errors import ArgumentError
from tokloom.models.language_model import LanguageModel

PROMPT = "one two three <four> five & six seven eight nine ten one two three four five six seven"
AFTER = " eight nine ten"


def test_kept_tokens_have_the_shade_of_kept_slots(tiny_llama: LanguageModel) -> None:
    (row,) = contenders("attention", ["streaming_llm:budget=20,interval=4,sink=3"])
    shades, prompt = shades_of(tiny_llama, row.component, row.spec, PROMPT, AFTER)
    assert prompt == len(tiny_llama.encode_prompt(PROMPT, chat=False))
    assert shades.layers.shape == (3, prompt)
    assert shades.layers[:, :3].eq(1).all()
    assert shades.layers[:, 3 : prompt - 13].eq(0).all()  # 16 slots are left after the prompt, 3 of them sinks
    assert shades.layers[:, -1].eq(1).all()


def test_what_dense_attention_weighs(tiny_llama: LanguageModel) -> None:
    shades = dense_shades(tiny_llama, PROMPT, AFTER)
    assert shades.layers.shape[0] == 3
    assert float(shades.layers.min()) >= 0
    assert float(shades.layers.max()) <= 1
    # Undone, the shades are at least the mean weight of 1 a token wherever they are not 0.
    times = torch.tensor(float(STRONG)) ** shades.layers
    assert float(times[shades.layers > 0].min()) > 1


def test_page(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    rows = contenders("attention", ["dense", "h2o", "token_select:sink=2,local=8"], [20])
    path = tmp_path / "new" / "page.html"
    write_heatmap(path, tiny_llama, rows, PROMPT, AFTER)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.links == []
    assert not re.search(r"https?:|url\(|@import|<link|<img|fetch\(", text)
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == ["what dense attention weighs", "token_select:budget=20,sink=2,local=8"]
    assert "<b>h2o:budget=20</b>" in text  # its interval is too large for this budget: said, not dropped
    data = json.loads(re.search(r"const data = (.*);\n", text)[1])  # type: ignore[index]
    assert data["titles"] == titles
    for shown, means, layers in zip(
        re.findall(r"<div class='text'[^>]*>(.*?)</div>", text, re.S), data["means"], data["layers"], strict=True
    ):
        assert html.unescape(re.sub(r"</?i[^>]*>", "", shown)) == PROMPT
        assert len(means) == len(layers) == len(tiny_llama.encode_prompt(PROMPT, chat=False))
        assert all(0 <= mean <= 100 for mean in means)
        assert all(len(digits) == 3 for digits in layers)
    light, dark = re.findall(r":root \{(.*?)\}", text, re.S)
    assert set(re.findall(r"(--[\w-]+):", light)) == set(re.findall(r"(--[\w-]+):", dark))


def test_characters_of_several_tokens_stay_whole() -> None:
    text = "größer 雪球 🐱"
    for size in (1, 2, 3):
        data = text.encode()
        pieces = [b"", *(data[at : at + size] for at in range(0, len(data), size))]
        told = readable(pieces)
        assert len(told) == len(pieces)
        assert told[0] == ""
        assert "".join(told).replace("·", "") == text
    assert readable([b"\xff", b"a"]) == ["\ufffd", "a"]


def test_a_continuation_of_one_token(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="at least two tokens"):
        write_heatmap(tmp_path / "page.html", tiny_llama, [], PROMPT, "a")
