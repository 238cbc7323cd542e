"""`tokloom ask`: answers a question about documents, with the passages it used and the ledger."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokloom.cli import options as o
from tokloom.errors import UsageError

if TYPE_CHECKING:
    from tokloom.context.selector import Document

EXAMPLE = 'Example: tokloom ask book.txt "Who is the narrator?"'


def _is_path(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()  # Path("") is the working directory
    except OSError:  # a long question is too long for a file name
        return False


def split_arguments(arguments: list[str], question: str | None, *, piped: bool) -> tuple[list[str], str]:
    """The paths and the question of ``PATH... QUESTION``; "-" is stdin.

    `piped` says that stdin is not a terminal, so that it may stand in for a missing path.

    Raises:
        UsageError: a part is missing, or path and question changed places.
    """
    if question is not None:
        paths = arguments
    elif not arguments:
        raise UsageError(f"Give the documents and then the question. {EXAMPLE}")
    else:
        *paths, question = arguments
        found = _is_path(question)
        if found and paths and not any(p == "-" or _is_path(p) for p in paths):
            raise UsageError(
                f"The question comes last, but the last argument {question!r} is a file and {paths[0]!r} is none. "
                f'Did you mean: tokloom ask {question} "{paths[0]}"?'
            )
        if found:
            raise UsageError(
                f"The question is missing: the last argument {question!r} is a file. "
                f'{EXAMPLE} To ask that very text, use --question "{question}".'
            )
    if not paths and piped:
        paths = ["-"]
    if not paths:
        raise UsageError(f"The documents are missing: give files, folders or - (stdin) before the question. {EXAMPLE}")
    if not question.strip():
        raise UsageError(f"The question is empty. {EXAMPLE}")
    stray = next((p for p in paths[1:] if re.fullmatch(r"[\w'?]+", p) and not _is_path(p)), None)
    if stray is not None and _is_path(paths[0]):
        raise UsageError(f"There is no file {stray!r}; a question of several words goes in quotes. {EXAMPLE}")
    if paths.count("-") > 1:
        raise UsageError("Stdin can be read once: give - once only.")
    return paths, question


def read_documents(paths: list[str]) -> list[Document]:
    """The texts of files, of the files in folders, and of stdin for "-"; before any model is loaded."""
    from tokloom.context.reader import read

    return [document for path in paths for document in read(path)]


@o.takes_components(documents=True)
def ask(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH... QUESTION",
            help="Files or folders (text, Markdown, HTML, PDF), - for stdin; the question comes last.",
            show_default=False,
        ),
    ] = None,
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="The question; then all arguments are paths.")
    ] = None,
    model: o.Model = "smollm2-135m",
    dtype: o.Dtype = None,
    weights: o.Weights = None,
    kv: o.KV = None,
    offload: o.Offload = None,
    device: o.Device = None,
    threads: o.Threads = None,
    *,
    components: dict[str, str | None],
    budget: o.Budget = None,
    drafter_state: o.DrafterState = None,
    choices: o.Choices = None,
    schema: o.Schema = None,
    regex: o.Regex = None,
    grammar: o.GrammarFile = None,
    max_new_tokens: o.MaxNewTokens = 128,
    temperature: o.Temperature = 0.0,
    top_k: o.TopK = 0,
    top_p: o.TopP = 1.0,
    min_p: o.MinP = 0.0,
    seed: o.Seed = None,
    stop: o.Stop = None,
    json: o.Json = False,
    trace: Annotated[
        bool,
        typer.Option("--trace", help="Also show why each passage was taken or left.", rich_help_panel="Output"),
    ] = False,
    quiet: o.Quiet = False,
) -> None:
    """Answer a question about documents, with the cited passages and the ledger."""
    paths, question = split_arguments(arguments or [], question, piped=o.is_piped(sys.stdin))
    sampling = o.sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        stop=stop,
    )
    rule = o.constraint(components.pop("constraint"), choices, schema, regex, grammar, strip=True)
    engine_options = o.engine_options(
        model=model,
        dtype=dtype,
        weights=weights,
        kv=kv,
        offload=offload,
        device=device,
        drafter_state=drafter_state,
        **{**components, "context": o.with_budget(components["context"], budget)},
    )

    from tokloom.cli import answer, output

    with output.working("reading the documents", quiet=quiet or json):
        documents = read_documents(paths)
    engine = answer.load_engine(engine_options, threads=threads, quiet=quiet or json)
    request: dict[str, Any] = {"prompt": question, "documents": documents, "constraint": rule, "sampling": sampling}
    if json:
        output.show_json({"question": question, **engine.generate(**request).as_json()})
        answer.keep_state(engine, drafter_state)
        return
    result = answer.stream_answer(engine, request, quiet=quiet)
    answer.keep_state(engine, drafter_state)
    if not quiet:
        answer.show_account(result, trace=trace)
