"""SCAFFOLD's control variates of clients. They are gradients, so they stay where the data are.

    c − cᵢ ─► correction of each gradient      cᵢ⁺ = cᵢ − c − Δ / (K η)      Δcᵢ = cᵢ⁺ − cᵢ ─► with the update

A variate is kept under the version and the update that it belongs to, before the update is delivered. It is current
from when that version has accepted that update: an attempt that fails, or a run that is killed, changes nothing.

Source: Karimireddy et al. 2020, arXiv:1910.06378, Algorithm 1, option II.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fededge.core.parts import CONTROL, under
from fededge.core.tensors import Tensors, signature
from fededge.core.updates import ClientUpdate, ExclusionReason
from fededge.errors import SetupError, StoreError, UpdateError
from fededge.records import Digest, digest_of
from fededge.settings import LocalTraining
from fededge.store import Store, keys, open_store
from fededge.store.blobs import decode_tensors, encode_tensors
from fededge.store.trainings import TrainingStore

VARIABLE = "FEDEDGE_CLIENT_STATE"
_KEPT = 10  # versions: a rollback over more of them begins with no variate


@dataclass(frozen=True)
class Variates:
    """The control variates with which a client trains in a round.

    Attributes:
      server: c, named and shaped like what is trained, float32.
      client: cᵢ, likewise.
    """

    server: Tensors
    client: Tensors

    @property
    def digest(self) -> Digest:
        return digest_of(encode_tensors(self.server) + encode_tensors(self.client))

    def correction(self) -> Tensors:
        return {name: np.asarray(np.subtract(c, self.client[name])) for name, c in self.server.items()}

    def after(self, update: ClientUpdate, how: LocalTraining, examples: int) -> tuple[Tensors, ClientUpdate]:
        """Return the client's next variate, and the update with the change of it."""
        rate = np.float32(1 / (how.steps(examples) * how.client_learning_rate))
        change = {
            name: np.asarray(np.negative(c) - np.multiply(update.delta[name], rate, dtype=np.float32))
            for name, c in self.server.items()
        }
        changed = {name: np.asarray(self.client[name] + value) for name, value in change.items()}
        delta = {**update.delta, **under(CONTROL, change)}
        return changed, ClientUpdate(update.client, delta, update.num_examples, update.metrics)


class ClientControls:
    """Keeps the variates of the clients of one training, on their device.

    Raises:
      SetupError: nothing says where.
    """

    def __init__(self, trainings: TrainingStore, base_version: str) -> None:
        self._trainings = trainings
        self._base_version = base_version
        self._store = _client_store()

    def current(self, client: str, like: Tensors) -> Tensors:
        """Read a client's variate: that of the last version that counts its update; zeros before there is one.

        Args:
          client: whose.
          like: named and shaped like it, float32.
        """
        zeros: Tensors = {name: np.zeros_like(value) for name, value in like.items()}
        with _on_device():
            kept = self._kept(client)
        oldest = min((keys.version_round(place.version) for place in kept), default=0)
        for manifest in self._trainings.lineage(self._base_version) if kept else ():
            if manifest.round < oldest:
                break
            counted = next((a.delta for a in manifest.accepted if a.client == client), None)
            for place in kept:
                if counted and place.version == manifest.version and place.delta == counted:
                    return self._read(place, zeros)
        return zeros

    def keep(self, client: str, version: str, delta: Digest, variate: Tensors) -> None:
        """Keep the variate that belongs to an update, and drop the oldest."""
        data = encode_tensors(variate)
        place = keys.ControlPlace(self._trainings.name, client, version, delta, digest_of(data))
        with _on_device():
            self._store.create(place.key, data)
            kept = self._kept(client)
            rounds = sorted({keys.version_round(old.version) for old in kept})
            for old in kept:
                if keys.version_round(old.version) in rounds[:-_KEPT]:
                    self._store.delete(old.key)

    def _kept(self, client: str) -> list[keys.ControlPlace]:
        folder = keys.control_folder(self._trainings.name, client)
        return [place for key in self._store.keys(folder) if (place := keys.control_place(key))]

    def _read(self, place: keys.ControlPlace, zeros: Tensors) -> Tensors:
        try:
            data = self._store.get(place.key).data
            if digest_of(data) == place.control:
                variate = decode_tensors(data, place.key)
                if signature(variate) == signature(zeros):
                    return variate
        except StoreError:
            pass
        sys.stdout.write(f"{place.key} is damaged: {place.client} goes on with no control variate\n")
        return zeros


@contextlib.contextmanager
def _on_device() -> Iterator[None]:
    """Turn trouble with a device's own disk into that of its client."""
    try:
        yield
    except StoreError as error:
        detail = f"its control variate cannot be kept on the device: {error}"
        raise UpdateError(ExclusionReason.TRAINING_FAILED, detail) from error


def _client_store() -> Store:
    place = os.environ.get(VARIABLE)
    if not place:
        raise SetupError(
            f"client_algorithm=scaffold keeps a control variate on each client's device: set {VARIABLE} to a folder "
            "there"
        )
    return open_store(place)
