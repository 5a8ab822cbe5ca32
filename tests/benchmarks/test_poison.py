"""The program behind docs/poison.md runs, gives the same tables twice, and its clients train as TensorFlow's do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.digits_model import check

ROOT = Path(__file__).parents[2]


def _quick(out: Path) -> tuple[str, list[dict[str, object]]]:
    command = [sys.executable, "-m", "benchmarks.poison", "--quick", "--json", str(out)]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())["trainings"]


def test_the_tables_have_every_rule_and_attack_and_come_out_again(tmp_path: Path) -> None:
    tables, trainings = _quick(tmp_path / "first.json")
    assert _quick(tmp_path / "second.json") == (tables, trainings)
    page = (ROOT / "docs" / "poison.md").read_text()
    shape = [line.split("|")[1] for line in tables.splitlines() if line.startswith("|")]
    assert shape == [line.split("|")[1] for line in page.splitlines() if line.startswith(("| rule |", "| ---", "| `"))
                     and line.count("|") in (5, 9)]  # fmt: skip
    assert all(line in page for line in tables.splitlines() if line.startswith("| rule |"))
    assert all(0 <= float(str(training["accuracy"])) <= 1 for training in trainings)


def test_a_client_learns_what_tensorflow_learns() -> None:
    for cosine, difference in check().values():
        assert cosine > 0.9999
        assert difference < 1e-4
