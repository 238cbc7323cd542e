"""The options that `ask` and `generate` share, and what they become."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, get_type_hints

import typer

from tokloom.atomic import check_writable
from tokloom.engine.components import KINDS
from tokloom.engine.request import Sampling
from tokloom.errors import ArgumentError

if TYPE_CHECKING:
    from tokloom.decode.constraint import Constraint

_MODEL = "Model"
_METHODS = "Methods (specs: name or name:key=value,...; see tokloom methods)"
_SAMPLING = "Sampling"
_OUTPUT = "Output"
_FIXED = "The same for all rows"

Model = Annotated[
    str, typer.Option("--model", "-m", help="Bundled model, folder, GGUF file or hub id.", rich_help_panel=_MODEL)
]
Dtype = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16 or float16; the model's default if not given.", rich_help_panel=_MODEL),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="exact (what the checkpoint holds, nothing lost), fp32, bf16, int8, int4, or torch; exact on a CPU.",
        rich_help_panel=_MODEL,
    ),
]
KV = Annotated[
    str | None,
    typer.Option(
        "--kv",
        help="Keys and values are stored in fp32, bf16, int8 or int4; --dtype if not given.",
        rich_help_panel=_MODEL,
    ),
]
Offload = Annotated[
    Path | None,
    typer.Option(
        "--offload",
        help="A directory on a disk: keys and values lie in files there, in RAM only what is read of them.",
        rich_help_panel=_MODEL,
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.", rich_help_panel=_MODEL)]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; torch's default if not given.", rich_help_panel=_MODEL)
]
Budget = Annotated[
    int | None,
    typer.Option(
        help="Most tokens of the whole prompt: template, question and passages. Overrides the context spec's.",
        rich_help_panel=_METHODS,
    ),
]
DrafterState = Annotated[
    Path | None,
    typer.Option(
        "--drafter-state", help="File that the drafter learns into, from one call to the next.",
        rich_help_panel=_METHODS,
    ),
]  # fmt: skip
MaxNewTokens = Annotated[int, typer.Option(help="Most tokens of the answer.", rich_help_panel=_SAMPLING)]
Temperature = Annotated[float, typer.Option(help="0 is greedy.", rich_help_panel=_SAMPLING)]
TopK = Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 is off.", rich_help_panel=_SAMPLING)]
TopP = Annotated[
    float, typer.Option(help="Keep the likeliest tokens up to this mass; 1 is off.", rich_help_panel=_SAMPLING)
]
MinP = Annotated[
    float,
    typer.Option(help="Drop tokens below this share of the likeliest; 0 is off.", rich_help_panel=_SAMPLING),
]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same text.", rich_help_panel=_SAMPLING)]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", help="End before this string; may be given several times.", rich_help_panel=_SAMPLING),
]
Choices = Annotated[
    str | None,
    typer.Option("--choices", help="The answer is one of these: a,b,c.", rich_help_panel=_METHODS),
]
Schema = Annotated[
    str | None,
    typer.Option("--schema", help="The answer is JSON valid by this JSON Schema (a file).", rich_help_panel=_METHODS),
]
Regex = Annotated[
    str | None,
    typer.Option("--regex", help="The whole answer matches this regular expression.", rich_help_panel=_METHODS),
]
GrammarFile = Annotated[
    str | None,
    typer.Option(
        "--grammar", help="The answer is in this grammar (a file: .gbnf, .lark or .ebnf).", rich_help_panel=_METHODS
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object with the answer and the ledger.", rich_help_panel=_OUTPUT)
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the answer only.", rich_help_panel=_OUTPUT)]

_AFTER = {"budget": "context", "drafter_state": "drafter"}
"""Options that stand right after that of a kind of component."""


def takes_components(
    *, documents: bool = False, fixed: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command an option for each kind of component, in place of its parameter `components`, which is called
    with a dict of them: the spec, or None, by the name of the kind.

    documents: also for those that choose from documents; they come first, as on a request's way.
    fixed: for those that a comparison has in all its rows, documents or not, none of them with a default.
    """
    kinds = [kind for kind in KINDS if (kind.fixed if fixed else documents or not kind.documents)]
    kinds.sort(key=lambda kind: not kind.documents)

    def of(name: str, default: str | None, text: str) -> inspect.Parameter:
        option = typer.Option(f"--{name.replace('_', '-')}", help=text, rich_help_panel=_FIXED if fixed else _METHODS)
        kind: Any = Annotated[str if default is not None else str | None, option]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in inspect.signature(command).parameters.items()
        ]
        beside = {_AFTER[parameter.name]: parameter for parameter in own if parameter.name in _AFTER}
        shown: list[inspect.Parameter] = []
        for parameter in own:
            if parameter.name == "components":
                for kind in kinds:
                    shown.append(of(kind.name, *((None, "A spec.") if fixed else (kind.default, kind.help))))
                    shown.extend([beside[kind.name]] if kind.name in beside else [])
            elif parameter.name not in _AFTER:
                shown.append(parameter)

        @functools.wraps(command)
        def wrapper(**given: Any) -> None:
            specs = {kind.name: given.pop(kind.name, None if fixed else kind.default) for kind in kinds}
            command(components=specs, **given)

        wrapper.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
        return wrapper

    return decorate


DTYPES = ("float32", "bfloat16", "float16")


def is_piped(stdin: TextIO | None) -> bool:
    """Whether stdin may hold input: it is there and is no terminal."""
    return stdin is not None and not stdin.isatty()


def constraint(
    spec: str | None,
    choices: str | None,
    schema: str | None = None,
    regex: str | None = None,
    grammar: str | None = None,
    *,
    strip: bool,
) -> Constraint | str | None:
    """The constraint of ``--constraint SPEC``, ``--choices a,b,c``, ``--schema FILE``, ``--regex PATTERN`` or
    ``--grammar FILE``.

    `strip` drops the blanks around each choice; a raw prompt keeps them, as " yes" is what follows a word there.

    Raises:
        ArgumentError: two of them are given, or the choices are no texts.
        DocumentError: a file can't be read.
        GrammarError: the schema, pattern or grammar is wrong.
    """
    options = {"--constraint": spec, "--choices": choices, "--schema": schema, "--regex": regex, "--grammar": grammar}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise ArgumentError(
            given[0], options[given[0]], f"not given together with {given[1]}", "Drop all but one of them."
        )
    if choices is not None:
        return _choices(choices, strip=strip)
    if schema is not None:
        return _made("json_schema", path=schema)
    if regex is not None:
        return _made("regex", pattern=regex)
    if grammar is not None:
        return _made("grammar", path=grammar)
    return spec


def _made(name: str, **options: Any) -> Constraint:
    from tokloom.decode.constraint import Constraint
    from tokloom.registry import make

    return make(name, options, Constraint, "constraint")


def _choices(choices: str, *, strip: bool) -> Constraint:
    texts = tuple(part.strip() if strip else part for part in choices.split(","))
    if not all(part.strip() for part in texts):
        raise ArgumentError("--choices", choices, "texts separated by commas", "For example: --choices yes,no.")
    return _made("choices", options=texts)


def sampling(
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int | None,
    stop: list[str] | None,
) -> Sampling:
    """The sampling parameters; raises ArgumentError before any model is loaded."""
    return Sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        stop=tuple(stop or ()),
    )


def with_budget(spec: str | None, budget: int | None) -> str | None:
    """The context spec with its budget replaced."""
    if spec is None or budget is None:
        return spec
    from tokloom.spec import format_spec, parse_spec

    name, options = parse_spec(spec)
    return format_spec(name, {**options, "budget": budget})


def check_names(specs: Iterable[str]) -> None:
    """Looks the methods of these specs up, so that a typing error costs no import of torch."""
    from tokloom.registry import card
    from tokloom.spec import parse_spec

    for spec in specs:
        card(parse_spec(spec)[0])


def engine_options(
    *,
    model: str,
    dtype: str | None,
    device: str | None,
    weights: str | None,
    kv: str | None,
    drafter_state: Path | None = None,
    offload: Path | None = None,
    **specs: str | None,
) -> dict[str, Any]:
    """Keyword arguments of `tokloom.Engine`, checked as far as that needs no torch."""
    if dtype is not None and dtype not in DTYPES:
        raise ArgumentError("--dtype", dtype, "one of " + ", ".join(DTYPES))
    if drafter_state is not None and specs.get("drafter") is None:
        raise ArgumentError("--drafter-state", str(drafter_state), "given together with --drafter", "Add --drafter.")
    if drafter_state is not None:
        check_writable("--drafter-state", drafter_state)
    if offload is not None and not offload.is_dir():
        raise ArgumentError("--offload", str(offload), "a directory that is there")
    check_names(spec for spec in specs.values() if spec is not None)
    loading = {"model": model, "dtype": dtype, "device": device, "weights": weights, "kv": kv}
    paths = {"drafter_state": drafter_state, "offload": offload}
    return {**loading, **{name: path for name, path in paths.items() if path is not None}, **specs}
