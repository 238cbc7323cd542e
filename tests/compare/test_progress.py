"""Lines on a comparison's progress, for a pipe or a file."""

from __future__ import annotations

import io

from tokloom.compare import progress


def test_lines_at_the_start_every_ten_seconds_and_at_the_end() -> None:
    stream, now = io.StringIO(), [0.0]
    with progress.lines(stream, lambda: now[0]) as told:
        for done in range(30):
            now[0] = float(done)
            told(done, 30, "squad  top_k")
        told(30, 30, "done")
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == [
        "compare: 0 of 30", "compare: 10 of 30", "compare: 20 of 30", "compare: 30 of 30",
    ]  # fmt: skip
