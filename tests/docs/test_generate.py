"""docs/generate.py writes what the code says, and its check fails on any difference."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tokloom import registry

SCRIPT = Path(__file__).parents[2] / "docs" / "generate.py"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_writes_a_page_a_method_and_is_then_content(
    generate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main(["--check"], tmp_path) == 1
    assert "docs/cli.md differs from the code" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert generate.main([], tmp_path) == 0
    assert generate.main(["--check"], tmp_path) == 0
    pages = {path.stem for path in (tmp_path / "docs" / "methods").glob("*.md")}
    assert pages == {*registry.names(), "README"}


def test_page_holds_the_whole_card(generate: ModuleType) -> None:
    card = registry.card("h2o")
    page = generate.method_page(card)
    for section in card.sections:
        assert f"## {section}" in page
    assert "[arXiv:2306.14048](https://arxiv.org/abs/2306.14048)" in page
    for option in card.options:
        assert f"| `{option.name}` | `{option.type}` | `{option.default}` |" in page


def test_command_reference_has_every_verb_and_option(generate: ModuleType) -> None:
    page = generate.command_reference()
    for verb in ("ask", "generate", "methods", "compare"):
        assert f"## tokloom {verb}" in page
    for option in ("`--max-new-tokens` | `128`", "`--budgets`", "`--json`", "`--debug`"):
        assert option in page


@pytest.mark.parametrize("change", ["edit", "delete", "add", "readme"])
def test_check_fails_on_any_difference_and_writing_mends_it(
    generate: ModuleType, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# T\n\n<!-- methods:begin -->\n<!-- methods:end -->\n\nprose\n", encoding="utf-8")
    generate.main([], tmp_path)
    page = tmp_path / "docs" / "methods" / "h2o.md"
    wanted = page.read_text(encoding="utf-8")
    if change == "edit":
        page.write_text(wanted + "x", encoding="utf-8")
    elif change == "delete":
        page.unlink()
    elif change == "add":
        (page.parent / "gone.md").write_text("x", encoding="utf-8")
    else:
        readme.write_text(readme.read_text(encoding="utf-8").replace("[h2o]", "[x]"), encoding="utf-8")
    capsys.readouterr()
    assert generate.main(["--check"], tmp_path) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert generate.main([], tmp_path) == 0
    assert generate.main(["--check"], tmp_path) == 0
    assert page.read_text(encoding="utf-8") == wanted
    assert "[h2o](docs/methods/h2o.md)" in readme.read_text(encoding="utf-8")
    assert readme.read_text(encoding="utf-8").endswith("prose\n")


def test_the_repository_is_up_to_date(generate: ModuleType) -> None:
    assert generate.main(["--check"]) == 0
