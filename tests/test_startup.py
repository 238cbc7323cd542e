"""A quick start: the collector pauses, scipy.optimize comes later, and both are as before afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from tokloom.startup import quick_start


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


@pytest.mark.parametrize(
    "use",
    [
        "pass",
        "loss.linear_sum_assignment(numpy.eye(2))",
        "from scipy.optimize import minimize; minimize(lambda x: x @ x, numpy.ones(1))",
        "import scipy.optimize._linesearch",
    ],
)
def test_scipy_is_there_as_soon_as_it_is_used(use: str) -> None:
    code = f"""
import sys, numpy
from tokloom.startup import quick_start
with quick_start():
    import transformers.loss.loss_for_object_detection as loss
    assert "scipy.linalg" not in sys.modules
    {use}
assert list(loss.linear_sum_assignment(numpy.eye(2))[1]) == [1, 0]
import scipy.optimize
assert scipy.optimize is sys.modules["scipy.optimize"]
assert scipy.optimize.minimize
"""
    subprocess.run([sys.executable, "-c", code], check=True)
