"""A quick start of the command line: the collector pauses, and works as before afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from tokloom.cli.startup import quick_start


def test_pauses_and_resumes() -> None:
    assert gc.isenabled()
    with quick_start():
        assert not gc.isenabled()
        with quick_start():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_resumes_after_an_error() -> None:
    with pytest.raises(KeyError), quick_start():
        raise KeyError("x")
    assert gc.isenabled()


def test_stays_off_for_a_user_who_switched_it_off() -> None:
    gc.disable()
    try:
        with quick_start():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, tokloom.models.load; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_engine_leaves_the_collector_of_its_process_alone() -> None:
    code = """
import gc, tokloom
gc.disable = lambda: (_ for _ in ()).throw(AssertionError("the collector was switched off"))
tokloom.Engine, tokloom.load
assert gc.isenabled() and gc.get_freeze_count() == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True)
