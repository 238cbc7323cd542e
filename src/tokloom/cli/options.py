"""The options that `ask` and `generate` share, and what they become."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from tokloom.atomic import check_writable
from tokloom.engine.request import Sampling
from tokloom.errors import ArgumentError

if TYPE_CHECKING:
    from tokloom.decode.constraint import Constraint

_MODEL = "Model"
_METHODS = "Methods (specs: name or name:key=value,...; see tokloom methods)"
_SAMPLING = "Sampling"
_OUTPUT = "Output"

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
Context = Annotated[
    str, typer.Option("--context", help="How passages are chosen from the documents.", rich_help_panel=_METHODS)
]
Budget = Annotated[
    int | None,
    typer.Option(
        help="Most tokens of the whole prompt: template, question and passages. Overrides the context spec's.",
        rich_help_panel=_METHODS,
    ),
]
Attention = Annotated[
    str,
    typer.Option("--attention", help="Which keys and values are kept and attended to.", rich_help_panel=_METHODS),
]
Predictor = Annotated[
    str | None,
    typer.Option(
        "--predictor", help="Changes what the next-token distribution is; the model's own if not given.",
        rich_help_panel=_METHODS,
    ),
]  # fmt: skip
Rope = Annotated[
    str | None,
    typer.Option(
        "--rope", help="How rotary positions are stretched beyond the trained window.", rich_help_panel=_METHODS
    ),
]
Search = Annotated[
    str | None,
    typer.Option("--search", help="The output is chosen among several, found by a search.", rich_help_panel=_METHODS),
]
Verifier = Annotated[
    str | None,
    typer.Option("--verifier", help="What the search chooses by.", rich_help_panel=_METHODS),
]
Drafter = Annotated[
    str | None,
    typer.Option(
        "--drafter", help="Drafts tokens for one pass to verify; changes speed, not text.", rich_help_panel=_METHODS
    ),
]
DrafterState = Annotated[
    Path | None,
    typer.Option(
        "--drafter-state", help="File that the drafter learns into, from one call to the next.",
        rich_help_panel=_METHODS,
    ),
]  # fmt: skip
Denoiser = Annotated[
    str | None,
    typer.Option(
        "--denoiser", help="Which masked tokens a diffusion model fills in in a pass.", rich_help_panel=_METHODS
    ),
]
DenoisingCache = Annotated[
    str | None,
    typer.Option(
        "--denoising-cache", help="What a diffusion model need not read again in a pass.", rich_help_panel=_METHODS
    ),
]
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
ConstraintSpec = Annotated[
    str | None, typer.Option("--constraint", help="Which tokens may come next.", rich_help_panel=_METHODS)
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
        from tokloom.methods.decode.json_schema import JsonSchema

        return JsonSchema(path=schema)
    if regex is not None:
        from tokloom.methods.decode.regex import Regex

        return Regex(pattern=regex)
    if grammar is not None:
        from tokloom.methods.decode.grammar import ContextFree

        return ContextFree(path=grammar)
    return spec


def _choices(choices: str, *, strip: bool) -> Constraint:
    texts = tuple(part.strip() if strip else part for part in choices.split(","))
    if not all(part.strip() for part in texts):
        raise ArgumentError("--choices", choices, "texts separated by commas", "For example: --choices yes,no.")
    from tokloom.methods.decode.choices import Choices

    return Choices(options=texts)


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


def with_budget(spec: str, budget: int | None) -> str:
    """The context spec with its budget replaced."""
    if budget is None:
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
