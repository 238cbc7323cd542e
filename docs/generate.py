"""Writes what the code says of itself into docs/methods/, docs/cli.md and README.md's marked blocks.

    python docs/generate.py           writes the files that differ and removes pages of methods that have gone
    python docs/generate.py --check   writes nothing; names the files that differ and exits with 1

Only bundled methods get a page. Nothing here depends on the terminal's width or on the machine.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from tokloom import registry
from tokloom.card import Card
from tokloom.cli import render
from tokloom.cli.main import app
from tokloom.grammar.json_schema import reference

ROOT = Path(__file__).parent.parent
MARK = "<!-- Written by docs/generate.py from the code; change it there. -->\n\n"


def cell(text: str) -> str:
    """A text inside a table's cell."""
    return " ".join(text.split()).replace("|", r"\|")


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join("| " + " | ".join(cell(text) for text in line) + " |\n" for line in lines)


def code(text: str) -> str:
    """A block of text as it is, its long lines folded."""
    lines = [textwrap.fill(line, 100, subsequent_indent="    ", break_long_words=False) for line in text.splitlines()]
    return "```text\n" + "\n".join(lines) + "\n```"


def paper_link(card: Card) -> str:
    number = f"P{card.paper}" if card.paper is not None else "paper"
    return f"[{number}](https://arxiv.org/abs/{card.arxiv})" if card.arxiv else "baseline"


def linked(text: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def method_page(card: Card) -> str:
    parts = [MARK, f"# {card.name}\n\n", f"{card.summary}\n\n", f"Stage `{card.stage}`, kind `{card.kind}`.\n"]
    for title, text in card.sections.items():
        prose = render.sentence_case(" ".join(text.split()))
        body = code(render.reflow(text)) if title in ("Formula", "Shapes") else prose
        parts.append(f"\n## {title}\n\n{linked(body)}\n")
    parts.append("\n## Options\n\n")
    rows = [
        (f"`{o.name}`", f"`{o.type}`", "required" if o.default is None else f"`{o.default}`", o.doc)
        for o in card.options
    ]
    parts.append(table(("option", "type", "default", "meaning"), rows) if rows else "None.\n")
    if render.usage(card):
        parts.append(f"\n## Use\n\n```console\n{render.usage(card)}\n```\n")
    return "".join(parts)


def methods_index(cards: list[Card]) -> str:
    parts = [MARK, "# Methods\n\nThe same on the command line: `tokloom methods`, `tokloom methods NAME`.\n"]
    for stage in registry.STAGES:
        rows = [
            (f"[{c.name}]({c.name}.md)", c.kind, paper_link(c), render.one_line(c)) for c in cards if c.stage == stage
        ]
        if rows:
            parts.append(f"\n## {stage}\n\n{table(('method', 'kind', 'paper', 'what it is'), rows)}")
    return "".join(parts)


def readme_table(cards: list[Card]) -> str:
    rows = []
    for stage in registry.STAGES:
        links = [f"[{c.name}](docs/methods/{c.name}.md)" for c in cards if c.stage == stage]
        if links:
            rows.append((f"`{stage}`", stage_in_words(stage), ", ".join(links)))
    return table(("stage", "decides", "methods"), rows)


def stage_in_words(stage: str) -> str:
    """What a stage decides, from the docstring of its folder of methods: "The context stage: which text ..."."""
    tree = ast.parse((Path(registry.__file__).parent / "methods" / stage / "__init__.py").read_text(encoding="utf-8"))
    first = (ast.get_docstring(tree) or "").split("\n\n")[0]
    return " ".join(first.partition(":")[2].split()).rstrip(".")


def option_rows(command: Any) -> Iterator[tuple[str, ...]]:
    for param in command.params:
        if param.param_type_name == "option" and "--help" not in param.opts:
            names = ", ".join(f"`{name}`" for name in param.opts)
            flag = param.is_flag or param.default in (None, [], ())
            yield names, "" if flag else f"`{param.default}`", param.help or ""


def command_reference() -> str:
    root: Any = typer.main.get_command(app)
    parts = [MARK, "# Command line\n\n", f"{root.help}\n\n"]
    parts.append(table(("option", "default", "meaning"), list(option_rows(root))))
    for name, command in root.commands.items():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        metavars = " ".join(p.metavar or p.name.upper() for p in arguments)
        parts.append(f"\n## tokloom {name}\n\n{command.help}\n\n")
        parts.append(f"```console\ntokloom {name} [OPTIONS] {metavars}\n```\n\n")
        parts.extend(f"`{p.metavar or p.name.upper()}`: {p.help}\n\n" for p in arguments)
        rows = list(option_rows(command))
        if rows:
            parts.append(table(("option", "default", "meaning"), rows))
    parts.append("\n## Exit codes\n\n0 done, 1 failed, 2 bad usage, 130 interrupted.\n")
    return "".join(parts)


def filled(text: str, block: str, content: str) -> str:
    """`text` with what stands between `<!-- block:begin -->` and `<!-- block:end -->` replaced."""
    begin, end = f"<!-- {block}:begin -->", f"<!-- {block}:end -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
    return pattern.sub(lambda _: f"{begin}\n{content}{end}", text)


def pages(root: Path) -> dict[Path, str | None]:
    """Every generated file with what it must hold; None for a page that must go."""
    cards = [card for card in registry.cards().values() if card.module.startswith("tokloom.")]
    folder = root / "docs" / "methods"
    wanted: dict[Path, str | None] = dict.fromkeys(folder.glob("*.md"))
    wanted |= {folder / f"{card.name}.md": method_page(card) for card in cards}
    wanted[folder / "README.md"] = methods_index(cards)
    wanted[root / "docs" / "cli.md"] = command_reference()
    wanted[root / "docs" / "json-schema.md"] = MARK + reference.page(ROOT, table)
    readme = root / "README.md"
    if readme.exists():
        wanted[readme] = filled(readme.read_text(encoding="utf-8"), "methods", readme_table(cards))
    return wanted


def main(arguments: list[str], root: Path = ROOT) -> int:
    differing = 0
    for path, content in pages(root).items():
        if (path.read_text(encoding="utf-8") if path.exists() else None) == content:
            continue
        differing += 1
        if "--check" in arguments:
            print(f"{path.relative_to(root)} differs from the code; run: python docs/generate.py", file=sys.stderr)
        elif content is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            print(f"wrote {path.relative_to(root)}")
    return 1 if differing and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
