"""The page on grammars: its Python runs, its command lines exist, its picture is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tokloom.grammar.combine import Spec
from tokloom.grammar.tool_calls import ToolCall

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "grammars.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def run(word: str) -> dict[str, Any]:
    """What the block with this word leaves behind."""
    (block,) = [block for block in BLOCKS if word in block]
    names: dict[str, Any] = {"__name__": "docs"}
    exec(block, names)
    return names


@pytest.mark.model
def test_a_typed_answer() -> None:
    names = run("class City")
    result = names["result"]
    assert result.parsed is None if result.stop_reason == "length" else isinstance(result.parsed, names["City"])


def test_tool_calls() -> None:
    reply = run("StructuralTag")["reply"]
    assert reply.text == "Let me see. "
    assert reply.calls == (ToolCall("weather", {"city": "Oslo"}),)


def test_together() -> None:
    names = run("combine")
    assert all(isinstance(names[name], Spec) for name in ("answer", "report", "sums"))


def test_every_block_is_run_here() -> None:
    assert len(BLOCKS) == 3


def test_files_and_names_exist() -> None:
    root = DOCS.parent
    for path in re.findall(r"(?:examples|benchmarks)/[\w./]*\w", PAGE):
        assert (root / path).exists(), path
    assert (DOCS / "mask.svg").read_text().startswith("<svg")
    for module in re.findall(r"tokloom\.grammar\.integrations\.(\w+)", PAGE):
        assert (root / "src/tokloom/grammar/integrations" / f"{module}.py").exists()
