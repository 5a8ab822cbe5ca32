"""What a person gets wrong with `fededge simulate`, and how it shows many quick rounds."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fededge import errors
from fededge.cli.round_options import built_in
from fededge.cli.simulation_view import SimulationView
from fededge.events import Event
from fededge.store import Store
from fededge.workloads import load_workload, suited_rounds
from tests.cli.command import Command

INPUT = errors.InputError.exit_code

pytestmark = pytest.mark.usefixtures("no_installing")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--rounds=0", "rounds=0 must be at least 1"),
        ("--rounds=-3", "rounds=-3 must be at least 1"),
        ("--workers=0", "workers=0 must be at least 1"),
        ("--workers=-1", "workers=-1 must be at least 1"),
        ("--workload=walking", "unknown workload 'walking': choose digits"),
        ("--clients=1438", "clients=1438 is more than the 1437 examples"),
        ("--local-epochs=0", "local_epochs=0"),
        ("--library=torch", "--library goes with a workload of your own: digits is on tensorflow"),
        ("--with=./nowhere", "--with ./nowhere: no such file or folder"),
    ],
)
def test_bad_input_is_named(fededge: Command, store: Store, arguments: str, words: str) -> None:
    before = store.keys("")
    assert words in fededge.fails(INPUT, "simulate", *arguments.split(), "--store", store.url)
    assert store.keys("") == before


def _round(number: int, begin: float, seconds: float) -> list[Event]:
    def event(kind: str, phase: str, after: float = 0.0, **fields: object) -> Event:
        return Event.model_validate({"time": begin + after, "kind": kind, "phase": phase, "round": number, **fields})

    return [
        event("started", "distribute"),
        event("opened", "distribute", clients=2, detail="1 batch"),
        event("client", "train", client="a", seconds=1),
        event("client", "train", client="b", ok=False, detail="NO_DATA: none"),
        event("evaluated", "evaluate", metric="accuracy", value=0.9),
        event("published", "version", seconds, version=f"v{number}"),
    ]


@pytest.mark.parametrize(("workload", "rounds"), [("cmapss", 100), ("mnist", 50), ("digits", 5)])
def test_by_default_as_many_rounds_as_suit_a_workload(workload: str, rounds: int) -> None:
    assert suited_rounds(load_workload(workload)) == rounds


def test_of_a_users_own_workload_five() -> None:
    assert suited_rounds(built_in("my_package.module:workload")) == 5


def _view(rounds: int) -> tuple[SimulationView, io.StringIO]:
    shown = io.StringIO()
    return SimulationView(rounds, Console(file=shown, width=120)), shown


def test_a_round_is_a_line_with_the_time_that_is_left() -> None:
    view, shown = _view(62)
    for event in [*_round(1, 100, 1.25), *_round(2, 200, 0.75)]:
        view.follow(event)
    assert shown.getvalue().splitlines() == [
        "round 1: accuracy 0.9000, 1 of 2 clients, 1 failed, 1.2 s; 61 to go, 0:01:16",
        "round 2: accuracy 0.9000, 1 of 2 clients, 1 failed, 0.8 s; 60 to go, 0:01:00",
    ]


def test_the_last_round_leaves_none() -> None:
    view, shown = _view(1)
    for event in _round(7, 100, 1.0):
        view.follow(event)
    assert shown.getvalue() == "round 7: accuracy 0.9000, 1 of 2 clients, 1 failed, 1.0 s\n"


def test_the_table_has_the_last_of_many_rounds() -> None:
    view, _ = _view(100)
    for number in range(1, 101):
        for event in _round(number, 100 * number, 1.0):
            view.follow(event)
    assert len(view.rounds) == 100
    assert view.table().row_count == 20
    assert next(iter(view.table().columns[0].cells)) == "81"
