"""Kills a round at every write to the store, and goes on: nothing of the result may tell.

A walk dies at write 1, 2, 3, … of a round, before, during or after it, until the round gets to its end. It is then
gone on with in one of three ways: the pipeline runs the dead task again; the whole round is run again under the same
name; another run takes over once the lease has ended.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest

from fededge.errors import NotFoundError, QuorumError
from fededge.settings import RoundSettings
from fededge.store import keys
from fededge.store.trainings import TrainingStore
from tests.faults.pipeline_run import NAME, PipelineRun
from tests.faults.rounds import JumpingStore, assert_whole, delivered, essence, opened, settings, trained
from tests.steps.round import refused
from tests.store.faulty import PHASES, FaultyStore, Killed, Phase

Way = Literal["retry of the task", "the same run again", "another run"]
WAYS: tuple[Way, ...] = ("retry of the task", "the same run again", "another run")
TRAININGS = {
    "momentum": settings(server_momentum=0.9),
    "adam": settings(server_optimizer="adam", server_learning_rate=0.1),
    "scaffold": settings(client_algorithm="scaffold", client_momentum=0),
    # Two of eight clients fail, four are refused.
    "faulty": settings(workload="tests.steps.tiny:faulty", clients=8, clients_per_pod=4),
}


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Spare what cannot matter here: syncing (a killed process's writes are in the system's memory) and a picture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr("fededge.steps.evaluate_model.learning_curve", lambda *arguments: "")
        yield


@dataclass(frozen=True)
class Undisturbed:
    """A training that nobody killed.

    Attributes:
      folder: has a copy of the store after each round, by its number.
      rounds: what each made.
      clients: who delivers.
    """

    folder: Path
    settings: RoundSettings
    rounds: dict[int, dict[str, Any]]
    clients: set[str]


Undisturbeds = Callable[[str], Undisturbed]  # of a name in TRAININGS


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbeds:
    @cache
    def make(name: str) -> Undisturbed:
        folder, rounds = tmp_path_factory.mktemp(name), {}
        store = JumpingStore(folder / "store")
        (folder / "0").mkdir()
        for number in (1, 2, 3):
            with opened(store):
                version = PipelineRun(store.url, folder / "out", TRAININGS[name]).go()
            rounds[number] = essence(TrainingStore(store, NAME), version)
            shutil.copytree(folder / "store", folder / str(number))
        clients = delivered(TrainingStore(store, NAME), "v1")
        return Undisturbed(folder, TRAININGS[name], rounds, clients)

    return make


class Victim:
    """A round that is killed and goes on.

    Args:
      undisturbed: what must come out.
      number: of the round.
      folder: for a store of its own, as the round before left it.
    """

    def __init__(self, undisturbed: Undisturbed, number: int, folder: Path) -> None:
        shutil.copytree(undisturbed.folder / str(number - 1), folder / "store")
        self.store = JumpingStore(folder / "store")
        self.trainings = TrainingStore(self.store, NAME)
        self._undisturbed = undisturbed
        self._number = number
        self._run = PipelineRun(self.store.url, folder / "out", undisturbed.settings)

    @property
    def is_published(self) -> bool:
        try:
            return self.trainings.head().pointer.version == f"v{self._number}"
        except NotFoundError:
            return False

    def die(self, at: int, phase: Phase) -> bool:
        """Go on, to be killed at a write; or to the end, if there are fewer. Returns whether it was killed."""
        faulty = FaultyStore(self.store, at, phase)
        try:
            with opened(faulty):
                self._run.go()
        except Killed:
            assert_whole(self.store)
            return True
        return False

    def turn_to(self, way: Way) -> None:
        """Decide who goes on."""
        if way == "retry of the task":
            return
        self._number += self.is_published  # the round is over: who begins anew begins the next
        name = f"{self._run.name}, another" if way == "another run" else self._run.name
        self._run = PipelineRun(self.store.url, self._run.folder, self._run.settings, name)
        if way == "another run":
            self.store.jump()

    def finish(self) -> None:
        """Go on to the end, and see that nothing tells that there were kills."""
        version = f"v{self._number}"
        before = delivered(self.trainings, version)
        with opened(self.store), trained() as again:
            assert self._run.go() == version
        assert not before & set(again)
        assert delivered(self.trainings, version) == self._undisturbed.clients
        assert essence(self.trainings, version) == self._undisturbed.rounds[self._number]
        assert_whole(self.store)
        assert self.trainings.lease.active() is None

    def files(self) -> dict[Path, int]:
        paths = Path(self.store.url).rglob("*")
        return {path: path.stat().st_mtime_ns for path in paths if path.is_file() and path.name != ".lock"}


def walk(undisturbed: Undisturbed, number: int, phase: Phase, way: Way | None, folder: Path) -> int:
    """Kill a round at each of its writes and go on, if there is a way. Returns how many writes there are."""
    for at in range(1, 100):
        victim = Victim(undisturbed, number, folder / str(at))
        before = victim.files()
        try:
            if not victim.die(at, phase):
                sys.stdout.write(f"{at - 1} writes, {at - 1} kills {phase} them, gone on with by {way}\n")
                return at - 1
            assert (victim.files() != before) == ((at, phase) != (1, "before"))  # it had written something
            if way:
                victim.turn_to(way)
                victim.finish()
        except BaseException as error:
            error.add_note(f"killed {phase} write {at}, gone on with by {way}")
            raise
        shutil.rmtree(folder / str(at))
    raise AssertionError("the round did not end")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("number", [1, 2])
def test_invariant_05_kill_any_step_at_any_write_and_run_again(
    undisturbed: Undisturbeds, number: int, phase: Phase, way: Way, tmp_path: Path
) -> None:
    """With a server optimizer that has a state, which the second round takes from the first."""
    assert walk(undisturbed("momentum"), number, phase, way, tmp_path) > 20


@pytest.mark.parametrize("phase", PHASES)
def test_invariant_05_with_the_moments_of_adam(undisturbed: Undisturbeds, phase: Phase, tmp_path: Path) -> None:
    assert walk(undisturbed("adam"), 2, phase, "another run", tmp_path) > 20


@pytest.mark.parametrize("phase", PHASES)
def test_invariant_05_with_the_control_variates_of_scaffold(
    undisturbed: Undisturbeds, phase: Phase, tmp_path: Path
) -> None:
    """Those of clients, on their devices, are killed at their writes as well."""
    assert walk(undisturbed("scaffold"), 2, phase, "another run", tmp_path) > 20


@pytest.mark.parametrize("phase", PHASES)
def test_invariant_05_with_clients_that_fail(undisturbed: Undisturbeds, phase: Phase, tmp_path: Path) -> None:
    """The notes of their failures are writes, too; and the same clients are left out for the same reasons."""
    assert walk(undisturbed("faulty"), 1, phase, "the same run again", tmp_path) > 30


@pytest.mark.parametrize("seed", range(20))
def test_invariant_05_kill_again_and_again(undisturbed: Undisturbeds, seed: int, tmp_path: Path) -> None:
    """Whoever goes on is killed as well, after a few writes at most, until it is done."""
    rng = random.Random(seed)
    victim = Victim(undisturbed("momentum"), 2, tmp_path)
    kills = 0
    while victim.die(rng.randint(1, 7), rng.choice(PHASES)):
        kills += 1
        assert kills < 100
        victim.turn_to("retry of the task" if victim.is_published else rng.choice(WAYS))
    victim.finish()
    sys.stdout.write(f"{kills} kills\n")
    assert kills >= 3


@pytest.mark.parametrize("phase", PHASES)
def test_invariant_03_the_pointer_never_names_something_incomplete(
    undisturbed: Undisturbeds, phase: Phase, tmp_path: Path
) -> None:
    """Read after each kill, and before anything is mended."""
    for number in (1, 2):
        walk(undisturbed("momentum"), number, phase, None, tmp_path / str(number))


@pytest.mark.parametrize("what", ["blobs/", "trainings/tiny/rounds/v2/"])
def test_something_incomplete_would_be_noticed(undisturbed: Undisturbeds, what: str, tmp_path: Path) -> None:
    store = Victim(undisturbed("momentum"), 3, tmp_path).store
    assert_whole(store)
    named = [key for key in store.keys(what) if not key.endswith("attempt.json") and "/sittings/" not in key]
    for key in named:
        data = store.get(key).data
        store.delete(key)
        with pytest.raises((NotFoundError, AssertionError)):
            assert_whole(store)
        store.create(key, data)
    assert len(named) >= 6


@pytest.mark.parametrize("way", ["retry of the task", "the same run again"])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("last", [2, 1, 0])
def test_invariant_06_below_quorum_the_round_fails_wherever_it_is_killed(
    undisturbed: Undisturbeds, last: int, phase: Phase, way: Way, tmp_path: Path
) -> None:
    """The last writes are the closing record, the note that the attempt failed, and the end of the lease."""
    demanding = TRAININGS["faulty"].model_copy(update={"min_clients": 3})
    counting = FaultyStore(JumpingStore(tmp_path / "counted"))
    with opened(counting), pytest.raises(SystemExit):
        PipelineRun(counting.url, tmp_path / "out", demanding).go()
    (expected,) = _failures(counting)
    store = JumpingStore(tmp_path / "store")
    run = PipelineRun(store.url, tmp_path / "out", demanding)
    with opened(FaultyStore(store, counting.writes - last, phase)), pytest.raises(Killed):
        run.go()
    noted = _failures(store)
    if way == "the same run again":
        run = PipelineRun(store.url, tmp_path / "out", demanding)
    with opened(store), pytest.raises(SystemExit) as ended:
        run.go()
    assert ended.value.code == QuorumError.exit_code
    # A round that was seen to have failed is tried anew by who begins anew.
    tries = 2 if noted and way == "the same run again" else 1
    assert _failures(store) == [expected] * tries
    assert TrainingStore(store, NAME).version().version == "v0"
    assert_whole(store)


def _failures(store: JumpingStore | FaultyStore) -> list[str]:
    trainings = TrainingStore(store, NAME)
    failed = [trainings.failed(ref) for ref in trainings.attempts("v1")]
    return [note.reason for note in failed if note]


def test_invariant_04_same_accepted_set_same_bits_whatever_order_and_batching(
    undisturbed: Undisturbeds, tmp_path: Path
) -> None:
    """Two rounds with pods of other sizes, which end in another order."""
    expected = undisturbed("momentum").rounds
    for size in (1, 2, 3, 4):
        rng, store = random.Random(size), JumpingStore(tmp_path / str(size))
        sized = TRAININGS["momentum"].model_copy(update={"clients_per_pod": size})
        for number in (1, 2):
            with opened(store):
                run = PipelineRun(store.url, tmp_path / "out", sized)
                rng.shuffle(run.distribute().plan)
                version = TrainingStore(store, NAME).version(run.go())
            made = version.model_dump(mode="json")
            for field in ("model", "server_state"):
                assert made[field] == expected[number]["manifest"][field]


def test_a_lease_that_has_not_ended_keeps_other_runs_away(
    undisturbed: Undisturbeds, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Until when is the store's clock's, whatever the machine's says."""
    victim = Victim(undisturbed("momentum"), 2, tmp_path)
    assert victim.die(8, "during")
    lease = victim.store.get(keys.lease(NAME))
    other = PipelineRun(victim.store.url, tmp_path / "out", TRAININGS["momentum"], "other")
    capsys.readouterr()
    with opened(victim.store), refused(capsys, 5, "run first", "UTC", "fededge rounds release tiny"):
        other.go()
    assert victim.store.get(keys.lease(NAME)) == lease
    victim.store.jump()
    with opened(victim.store):
        assert other.go() == "v2"
