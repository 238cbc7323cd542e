"""`tokloom generate`: continues a prompt, or answers a message through the model's chat template."""

from __future__ import annotations

import sys
from typing import Annotated, Any, TextIO

import typer

from tokloom.cli import options as o
from tokloom.errors import DocumentError, UsageError


def read_prompt(prompt: str | None, stdin: TextIO | None) -> str:
    """The prompt; that of stdin, less its last line break, for "-" or if stdin is piped and no prompt given.

    Raises:
        UsageError: there is none.
        DocumentError: stdin is not UTF-8.
    """
    if prompt == "-" or (prompt is None and o.is_piped(stdin)):
        data = stdin.buffer.read() if stdin is not None else b""
        try:
            prompt = data.decode().removesuffix("\n")
        except UnicodeDecodeError as error:
            raise DocumentError("stdin", f"is not UTF-8 text ({error.reason} at byte {error.start})") from None
    if not prompt:
        raise UsageError('The prompt is missing. Example: tokloom generate "Once upon a time"')
    return prompt


@o.takes_components()
def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="The text to continue; - reads stdin.", show_default=False)
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Send the prompt as a user's message through the chat template.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="The system message; implies --chat.")] = None,
    model: o.Model = "smollm2-135m",
    dtype: o.Dtype = None,
    weights: o.Weights = None,
    kv: o.KV = None,
    offload: o.Offload = None,
    device: o.Device = None,
    threads: o.Threads = None,
    *,
    components: dict[str, str | None],
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
    quiet: o.Quiet = False,
) -> None:
    """Continue a prompt, or answer a message (--chat), with the ledger."""
    prompt = read_prompt(prompt, sys.stdin)
    sampling = o.sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        stop=stop,
    )
    as_chat = chat or system is not None
    rule = o.constraint(components.pop("constraint"), choices, schema, regex, grammar, strip=as_chat)
    engine_options = o.engine_options(
        model=model,
        dtype=dtype,
        device=device,
        weights=weights,
        kv=kv,
        offload=offload,
        drafter_state=drafter_state,
        **components,
    )

    from tokloom.cli import answer, output

    engine = answer.load_engine(engine_options, threads=threads, quiet=quiet or json)
    request: dict[str, Any] = {"constraint": rule, "sampling": sampling}
    if as_chat:
        instructions = [] if system is None else [{"role": "system", "content": system}]
        request["messages"] = [*instructions, {"role": "user", "content": prompt}]
    else:
        request["prompt"] = prompt
    if json:
        output.show_json(engine.generate(**request).as_json())
        answer.keep_state(engine, drafter_state)
        return
    result = answer.stream_answer(engine, request, quiet=quiet)
    answer.keep_state(engine, drafter_state)
    if not quiet:
        answer.show_account(result)
