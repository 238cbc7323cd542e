"""docs/add-a-method.md, followed to the letter by a package outside tokloom."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "add-a-method.md"

RUN = """
import sys
sys.path.insert(0, {tests!r})
from tokloom import Engine, Sampling, registry
from tests.tiny_models import build_llama
assert registry.card("recent_only").stage == "attention"
engine = Engine(build_llama(), attention="recent_only:budget=12,interval=4", drafter="token_recycling")
result = engine.generate("one two three four five six seven one two three four", sampling=Sampling(max_new_tokens=20))
counts = result.ledger.row("attention").counts
assert counts["held"] <= 12 < counts["seen"], counts
print(result.components["attention"])
"""


@pytest.fixture
def package(tmp_path: Path) -> dict[str, str]:
    """An installed package as pip would leave it: the module and the entry point of the page."""
    page = PAGE.read_text(encoding="utf-8")
    code = re.search(r"<!-- test: recent_only.py -->\n```python\n(.*?)```", page, re.S)
    toml = re.search(r'```toml\n\[project.entry-points."tokloom.methods"\]\n(.*?)```', page, re.S)
    assert code
    assert toml
    (tmp_path / "recent_only.py").write_text(code[1], encoding="utf-8")
    info = tmp_path / "recent_only-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: recent-only\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tokloom.methods]\n" + toml[1].replace('"', ""))
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def run(arguments: list[str], env: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_listed_shown_and_run(package: dict[str, str]) -> None:
    assert "recent_only" in run(["-m", "tokloom.cli.main", "methods", "attention"], package)
    shown = run(["-m", "tokloom.cli.main", "methods", "recent_only"], package)
    assert "Keeps the newest tokens" in shown
    assert "interval" in shown
    output = run(["-c", RUN.format(tests=str(PAGE.parents[1]))], package)
    assert output.strip() == "recent_only:budget=12,interval=4"
