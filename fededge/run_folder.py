"""The folder in which a run on this machine keeps what it tells."""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path

from fededge import events
from fededge.errors import SetupError
from fededge.store.leases import HOLDER

CLIENT_STATE = "FEDEDGE_CLIENT_STATE"  # as steps.controls reads it


class RunFolder:
    """Where one run keeps what it tells: the log, the events, the artifacts.

    Args:
      parent: of the folder.
      log: the name of the log.
    """

    def __init__(self, parent: Path, log: str = "kfp.log") -> None:
        name = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S-%f")
        self.path = (parent / name).absolute()
        self.log = self.path / log
        try:
            self.path.mkdir(parents=True)
        except OSError as error:
            raise SetupError(
                f"{self.path} cannot be made, and a run keeps its log there: {error.strerror}; run in another folder"
            ) from error

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def outputs(self) -> Path:
        return self.path / "outputs"

    @property
    def temporary(self) -> Path:
        return self.path / "tmp"

    def variables(self, holder: str) -> dict[str, str]:
        """Name the variables of the steps' processes, where these are this machine's own.

        Args:
          holder: names the run to others that want the training.
        """
        return {
            events.VARIABLE: str(self.events),
            HOLDER: holder,
            "TMPDIR": str(self.temporary),  # some leave what they make there
            CLIENT_STATE: str(client_state()),
        }

    def keep_artifact(self, artifact: str, name: str) -> Path | None:
        """Copy the newest artifact of a name to where people find it."""
        found = sorted(self.outputs.glob(f"**/{artifact}"), key=lambda path: path.stat().st_mtime)
        if not found:
            return None
        return Path(shutil.copy(found[-1], self.path / name))


def client_state() -> Path:
    """Where clients of this machine keep what stays with them: all of them are on it."""
    return Path(os.environ.get(CLIENT_STATE) or ".fededge/clients").absolute()
