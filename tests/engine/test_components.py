"""The table of components: the engine, the command line and comparisons agree with it."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from tokloom import Engine
from tokloom.cli.ask import ask
from tokloom.cli.compare import compare
from tokloom.cli.generate import generate
from tokloom.engine.components import BY_NAME, KINDS, Kind, build, check
from tokloom.errors import CompositionError, UnknownNameError


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_engine_takes_each_kind_with_its_default(kind: Kind) -> None:
    call = Engine.generate if kind.per_request else Engine.__init__
    assert inspect.signature(call).parameters[kind.name].default == kind.default
    assert kind.cls().__name__ == kind.interface.rpartition(":")[2]


def test_verbs_have_an_option_for_each_kind() -> None:
    names = {kind.name for kind in KINDS}
    assert names & set(inspect.signature(ask).parameters) == names
    assert names - set(inspect.signature(generate).parameters) == {"context"}
    assert names & set(inspect.signature(compare).parameters) == {kind.name for kind in KINDS if kind.fixed}


def test_reading_the_table_imports_no_torch() -> None:
    code = "import sys, tokloom.engine.components, tokloom.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_build_and_check() -> None:
    assert build("drafter", None) is None
    with pytest.raises(UnknownNameError, match=r"no Drafter named 'mergd'\. Did you mean 'merged'"):
        build("drafter", "mergd")
    attention, drafter = build("attention", "dense"), build("drafter", "merged")
    check({"attention": attention, "drafter": drafter, "predictor": None})

    class Wants:
        name, stage, needs = "wants", "decode", ("wings",)

    with pytest.raises(CompositionError, match="nothing gives wings"):
        BY_NAME["drafter"].check(Wants(), attention)
