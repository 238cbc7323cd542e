"""The entry point `tokloom`: the verbs, and the translation of errors into a line and an exit code.

Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import tokloom
from tokloom.cli.ask import ask
from tokloom.cli.compare import compare
from tokloom.cli.generate import generate
from tokloom.cli.heatmap import heatmap
from tokloom.cli.methods import methods
from tokloom.cli.prepare import prepare
from tokloom.errors import TokloomError

INTERRUPTED = 130

app = typer.Typer(
    name="tokloom",
    help="Makes a language model cheaper, longer in context, controllable and measurable, token by token.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    add_completion=False,
)
for verb in (ask, generate, methods, compare, heatmap, prepare):
    app.command()(verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"tokloom {tokloom.__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand after the verb too.")
    ] = False,
) -> None:
    """Options of all verbs; `main` acts on --debug."""


def describe(error: Exception, given: Sequence[str]) -> tuple[str, int]:
    """The message and the exit code of an error; `given` are the arguments of the command line."""
    if isinstance(error, TokloomError):
        return str(error), error.exit_code
    if not hasattr(error, "format_message"):
        return f"{type(error).__name__}: {error} (unexpected; run with --debug for the traceback)", 1
    # One of typer's own: an unknown option, a value of the wrong type.
    context, param = getattr(error, "ctx", None), getattr(error, "param", None)
    message: str = _wrong_value(error, getattr(param, "opts", ()), given) or error.format_message()
    return f"{message.rstrip('.')}. See: {context.command_path if context else 'tokloom'} --help.", 2


def _wrong_value(error: Any, names: Sequence[str], given: Sequence[str]) -> str | None:
    """typer's complaint about the value of an option, with the value, which typer leaves out."""
    for i in reversed(range(len(given))):  # of an option that is given twice the last value counts
        name, equals, value = given[i].partition("=")
        if name in names:
            shown = value if equals else " ".join(given[i + 1 : i + 2])
            return f"{name}={shown!r} is not valid: {error.message}"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"] or ["--help"]
    command = typer.main.get_command(app)
    try:
        with command.make_context("tokloom", given) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as leaving:
        return leaving.exit_code
    except SystemExit as leaving:  # rich's own answer to a closed pipe
        return leaving.code if isinstance(leaving.code, int) else 1
    except BrokenPipeError:
        # The reader has gone (| head): nobody is left to complain to, and the flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"\ntokloom: {str(stop) or 'interrupted'}\n")
        return INTERRUPTED
    except Exception as error:
        from tokloom.cli.output import complain

        if debug:
            traceback.print_exc()
        message, code = describe(error, given)
        complain(message)
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
