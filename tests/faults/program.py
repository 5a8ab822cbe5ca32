"""What processes of these tests do: `python -m tests.faults.program train|version|rounds …`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fededge.settings import RoundSettings
from fededge.steps.train_clients import train_clients
from fededge.steps.version_model import version_model
from fededge.store.folder import FolderStore
from tests.faults.pipeline_run import PipelineRun

_TOO_LONG = 120.0


def train(store: str, batch: str, meeting: str, me: str, spoilt: str) -> None:
    """Train a batch beside another process that does, too; both train each client before one delivers it.

    Args:
      meeting: a folder for both.
      me: `first` or `second` to deliver.
      spoilt: a client of which this process delivers something else.
    """
    from tests.steps.tiny import TinyLearner

    real = TinyLearner.train

    def meet_and_train(self: TinyLearner, client: str, *arguments: Any) -> Any:
        made = real(self, client, *arguments)
        _meet(Path(meeting, client), me)
        if me == "second":
            _wait(lambda: list(Path(store).glob(f"trainings/*/rounds/*/*/updates/{client}.json")))
        if client == spoilt:
            return type(made)(client, {name: 2 * a for name, a in made.delta.items()}, made.num_examples, made.metrics)
        return made

    TinyLearner.train = meet_and_train  # type: ignore[method-assign, assignment]
    train_clients(store, batch)


def version(store: str, attempt: str, model: str, meeting: str, me: str) -> None:
    """Publish beside another process that does, too; both have made sure that they may before one does."""
    real = FolderStore.replace

    def meet_and_replace(self: FolderStore, key: str, data: bytes, tag: str) -> None:
        if key.endswith("/current.json"):
            _meet(Path(meeting), me)
        real(self, key, data, tag)

    FolderStore.replace = meet_and_replace  # type: ignore[method-assign]
    version_model(store, attempt, model, str(Path(meeting, f"{me}.json")), str(Path(meeting, f"{me}.md")))


def rounds() -> None:
    """Run a round for each line of standard input, `[store, settings, holder, writes]`, stopping itself at a write.

    Writes to standard output how it ended when it was woken, a line for each.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        from fededge.learners.server import tensorflow_federated

        tensorflow_federated()  # takes longer to import than these rounds have
    os.fsync = lambda descriptor: None  # type: ignore[assignment]
    for line in sys.stdin:
        store, settings, holder, writes = json.loads(line)
        ended = _stopping_round(store, RoundSettings.parse(**settings), holder, writes)
        sys.stdout.write(json.dumps(ended) + "\n")
        sys.stdout.flush()


def _stopping_round(store: str, settings: RoundSettings, holder: str, writes: list[str]) -> dict[str, Any]:
    said, code = io.StringIO(), 0
    os.environ["FEDEDGE_HOLDER"] = holder
    with _stopping_at(writes), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            PipelineRun(store, Path(store).parent / "zombie", settings).go()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return {"code": code, "said": said.getvalue()}


@contextlib.contextmanager
def _stopping_at(writes: list[str]) -> Iterator[None]:
    """Stop this process before the write that is the last of these, which are by how their keys end, in turn."""
    real, left = {name: getattr(FolderStore, name) for name in ("create", "replace")}, list(writes)

    def stopping(name: str) -> Callable[..., None]:
        def stop_and_write(self: FolderStore, key: str, *arguments: Any) -> None:
            if left and key.endswith(left[0]):
                left.pop(0)
                if not left:
                    os.kill(os.getpid(), signal.SIGSTOP)
            real[name](self, key, *arguments)

        return stop_and_write

    try:
        for name in real:
            setattr(FolderStore, name, stopping(name))
        yield
    finally:
        for name, method in real.items():
            setattr(FolderStore, name, method)


def _meet(place: Path, me: str) -> None:
    """Wait until the other one is there as well."""
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{me}.here").touch()
    _wait(lambda: len(list(place.glob("*.here"))) == 2)


def _wait(until: Callable[[], object]) -> None:
    end = time.monotonic() + _TOO_LONG
    while not until():
        if time.monotonic() > end:
            sys.exit("waited in vain")
        time.sleep(0.002)


if __name__ == "__main__":
    {"train": train, "version": version, "rounds": rounds}[sys.argv[1]](*sys.argv[2:])
