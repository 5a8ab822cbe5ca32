"""What the steps tell, and how it is shown while a run goes on."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fededge.cli.run_view import RunView
from fededge.events import VARIABLE, Event, Tail, emit

# Two of these start together, when both have said that they are ready.
WRITER = """
import sys
from fededge.events import emit
sys.stderr.write("ready\\n")
sys.stderr.flush()
sys.stdin.readline()
name, number = sys.argv[1], int(sys.argv[2])
for i in range(number):
    emit("client", "train", client=name, round=i + 1, detail=name * (1 + 997 * i % 6000))
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def _kinds(tail: Tail) -> list[str]:
    return [event.kind for event in tail]


def test_an_event_is_a_line_in_the_file_and_in_the_pods_log(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    emit("client", "train", client="ä\n|", ok=False, detail="NO_DATA: none")
    written = file.read_text(encoding="utf-8")
    assert written == capsys.readouterr().out
    assert written.count("\n") == 1
    found = json.loads(written)
    assert found.pop("time") > 1.7e9
    assert found == {"kind": "client", "phase": "train", "client": "ä\n|", "ok": False, "detail": "NO_DATA: none"}
    (event,) = Tail(file)
    assert event.client == "ä\n|"


def test_without_a_file_there_is_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    emit("started", "train")
    assert json.loads(capsys.readouterr().out)["kind"] == "started"


def test_a_field_that_is_none_of_an_events_is_a_programming_error(file: Path) -> None:
    with pytest.raises(ValueError, match="colour"):
        emit("started", "train", colour="red")
    assert not file.exists()


def test_a_run_that_has_told_nothing_yet(file: Path) -> None:
    tail = Tail(file)
    assert list(tail) == []
    emit("started", "train")
    assert _kinds(tail) == ["started"]


def test_events_are_told_once(file: Path) -> None:
    tail = Tail(file)
    emit("started", "train")
    emit("finished", "train")
    assert _kinds(tail) == ["started", "finished"]
    assert _kinds(tail) == []
    emit("started", "aggregate")
    assert [event.phase for event in tail] == ["aggregate"]


def test_reading_can_stop_in_the_middle(file: Path) -> None:
    emit("started", "train")
    emit("finished", "train")
    tail = Tail(file)
    assert next(iter(tail)).kind == "started"
    assert _kinds(tail) == ["finished"]


def test_a_line_that_is_half_written_waits(file: Path) -> None:
    emit("started", "train")
    emit("published", "version", version="vä")
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        file.write_bytes(whole[:cut])
        tail = Tail(file)
        assert _kinds(tail) == ["started"]
        with file.open("ab") as more:
            more.write(whole[cut:])
        assert [event.version for event in tail] == ["vä"]


@pytest.mark.parametrize("line", [b"", b"{", b"null", b"[]", b'{"kind": "new"}', b"\xff\xfe", b'{"time": 1}'])
def test_a_line_that_is_no_event_is_passed_over(file: Path, line: bytes) -> None:
    emit("started", "train")
    with file.open("ab") as more:
        more.write(line + b"\n")
    emit("finished", "train")
    assert _kinds(Tail(file)) == ["started", "finished"]


def test_lines_of_two_processes_never_mix(file: Path) -> None:
    number, names = 300, ["a", "b"]
    writers = [_writer(name, number) for name in names]
    for writer in writers:
        assert writer.stderr
        assert writer.stderr.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("\n")
        writer.stdin.flush()
    assert [writer.communicate(timeout=60)[1] for writer in writers] == ["", ""]
    assert len(file.read_bytes().splitlines()) == 2 * number
    events = list(Tail(file))
    assert len(events) == 2 * number
    for name in names:
        own = [event for event in events if event.client == name]
        assert [event.round for event in own] == list(range(1, number + 1))
        assert all(set(event.detail) == {name} for event in own)


def _writer(name: str, number: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, name, str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _round(number: int, start: float) -> list[Event]:
    """Return what the steps tell in a round in which one client of three fails."""

    def event(second: float, kind: Any, phase: str, **fields: Any) -> Event:
        return Event(time=start + second, kind=kind, phase=phase, **fields)

    return [
        event(0, "started", "distribute"),
        event(1, "opened", "distribute", round=number, clients=3, detail=f"2 batches from v{number - 1}"),
        event(2, "finished", "distribute"),
        event(3, "started", "train"),
        event(4, "started", "train"),
        event(5, "client", "train", round=number, client="a", seconds=1.5),
        event(6, "client", "train", round=number, client="b", ok=False, detail="NO_DATA: none"),
        event(7, "finished", "train"),
        event(8, "client", "train", round=number, client="c", seconds=2),
        event(9, "finished", "train"),
        event(10, "started", "aggregate"),
        event(11, "finished", "aggregate"),
        event(12, "started", "evaluate"),
        event(13, "evaluated", "evaluate", round=number, metric="accuracy", value=0.9 + number / 100),
        event(14, "finished", "evaluate"),
        event(15, "started", "version"),
        event(16, "published", "version", round=number, version=f"v{number}"),
        event(17, "finished", "version"),
    ]


def _view(*, terminal: bool = False) -> tuple[RunView, io.StringIO]:
    shown = io.StringIO()
    return RunView(2, Console(file=shown, force_terminal=terminal, width=120, color_system=None)), shown


def _text(view: RunView) -> str:
    shown = io.StringIO()
    Console(file=shown, width=120, color_system=None).print(view.table())
    return shown.getvalue()


def _rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def test_a_run_is_told_in_plain_lines_where_there_is_no_terminal() -> None:
    view, shown = _view()
    with view.shown():
        for event in [*_round(1, 100), *_round(2, 200)]:
            view.follow(event)
    assert shown.getvalue().splitlines() == [
        "round 1: 3 clients, 2 batches from v0",
        "round 1: a trained in 1.5 s (1/3)",
        "round 1: b NO_DATA: none (1/3)",
        "round 1: c trained in 2.0 s (2/3)",
        "round 1: accuracy 0.9100",
        "round 1: v1 is current",
        "round 2: 3 clients, 2 batches from v1",
        "round 2: a trained in 1.5 s (1/3)",
        "round 2: b NO_DATA: none (1/3)",
        "round 2: c trained in 2.0 s (2/3)",
        "round 2: accuracy 0.9200",
        "round 2: v2 is current",
    ]


def test_the_table_has_a_row_a_round() -> None:
    view, _ = _view()
    for event in [*_round(1, 100), *_round(2, 200)]:
        view.follow(event)
    first, second = _rows(_text(view))
    assert first == ["1", "v1", "2 of 3, 1 failed", "accuracy 0.9100", "6 s", "16 s"]
    assert second == ["2", "v2", "2 of 3, 1 failed", "accuracy 0.9200", "6 s", "16 s"]
    assert view.failure is None


def test_the_table_can_be_drawn_at_every_moment() -> None:
    view, _ = _view()
    for number, event in enumerate([*_round(1, 100), *_round(2, 200)]):
        view.follow(event)
        assert len(_rows(_text(view))) == (0 if number < 1 else 1 if number < 19 else 2)
    assert _text(RunView(1, Console(file=io.StringIO())))


def test_a_training_phase_lasts_from_the_first_pods_start_to_the_last_ones_end() -> None:
    view, _ = _view()
    for event in _round(1, 100):
        view.follow(event)
    (done,) = view.rounds
    assert done.seconds == {"distribute": 2.0, "train": 6.0, "aggregate": 1.0, "evaluate": 2.0, "version": 2.0}
    assert json.loads(json.dumps(done.as_json())) == {
        "round": 1,
        "version": "v1",
        "clients": 3,
        "delivered": 2,
        "failed": 1,
        "metric": "accuracy",
        "value": 0.91,
        "seconds": done.seconds,
    }


def test_a_failure_is_kept() -> None:
    view, shown = _view()
    for event in _round(1, 100)[:12]:
        view.follow(event)
    view.follow(Event(time=112, kind="failed", phase="aggregate", ok=False, detail="too few", exit_code=5))
    assert view.failure
    assert (view.failure.detail, view.failure.exit_code) == ("too few", 5)
    assert _rows(_text(view)) == [["1", "", "2 of 3, 1 failed", "", "6 s", ""]]
    assert "v1" not in shown.getvalue()


def test_a_failure_before_the_first_round_is_kept() -> None:
    view, shown = _view()
    view.follow(Event(time=1, kind="started", phase="distribute"))
    view.follow(Event(time=2, kind="failed", phase="distribute", ok=False, detail="unknown workload", exit_code=2))
    assert view.failure
    assert view.failure.detail == "unknown workload"
    assert view.rounds == []
    assert shown.getvalue() == ""


def test_a_terminal_is_shown_the_table_and_what_goes_on() -> None:
    view, shown = _view(terminal=True)
    events = _round(1, 100)
    with view.shown():
        for event in events[:6]:
            view.follow(event)
    assert "round 1 of 2: train, 1 of 3 clients" in shown.getvalue()
    assert "a trained in" not in shown.getvalue()


def test_names_of_clients_are_no_markup() -> None:
    view, shown = _view()
    for event in _round(1, 100)[:2]:
        view.follow(event)
    view.follow(Event(time=102, kind="client", phase="train", round=1, client="[bold]x[/bold]", seconds=1))
    view.follow(
        Event(time=103, kind="client", phase="train", round=1, client="x[/]", ok=False, detail="KeyError: '[/x]'")
    )
    assert shown.getvalue().splitlines()[1:] == [
        "round 1: [bold]x[/bold] trained in 1.0 s (1/3)",
        "round 1: x[/] KeyError: '[/x]' (1/3)",
    ]
