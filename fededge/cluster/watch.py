"""Follows objects by Kubernetes' watch API, through dropped connections, an API server that is away, and 410.

    list ─► watch from its version ─► events … ─► connection drops ─► watch from the last version seen ─► …
      ▲                                                                │
      └────────────────────────── 410: too old ◄──────────────────────┘

Nothing is asked for in a loop: a connection stays open until the server ends it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from fededge.cluster.api import Cluster
from fededge.errors import ClusterError

Document = dict[str, Any]

_SECONDS = 60  # after which the server ends a watch, so that one that is dead without a word is noticed
_HASTY = 1.0  # seconds; a watch that ends sooner is not opened again at once
_GONE = 410


class Change(NamedTuple):
    """An object as it is now, or as it last was.

    Attributes:
      resource: such as jobs.
      object: plain JSON.
      is_deleted: it is there no more.
    """

    resource: str
    object: Document
    is_deleted: bool


class Feed:
    """Changes of several kinds of objects, in one queue; a thread for each kind listens.

    Args:
      cluster: to ask.
      say: gets a line when something is missed that can be done without.
    """

    def __init__(self, cluster: Cluster, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._say = say
        self._queue: SimpleQueue[Change | Exception] = SimpleQueue()
        self._followers: list[_Follower] = []
        self._failed: Exception | None = None

    def follow(self, function: Callable[..., Any], resource: str, *, optional: bool = False, **selectors: str) -> None:
        """Put every object of a kind into the queue, and then each of its changes.

        Args:
          function: lists them, such as `cluster.batch.list_namespaced_job`.
          resource: what it lists, such as jobs.
          optional: do without if we may not.
          selectors: such as `label_selector`.
        """
        follower = _Follower(self._cluster, function, resource, selectors)
        self._followers.append(follower)
        thread = threading.Thread(target=self._run, args=(follower, optional), name=f"watch {resource}", daemon=True)
        follower.thread = thread
        thread.start()

    def ready(self) -> None:
        """Wait until everything that there was has been seen: from then on no change is missed.

        Raises:
          ClusterError: Kubernetes refuses to tell, or is away for too long.
        """
        for follower in self._followers:
            follower.listed.wait()
        if self._failed:
            raise self._failed

    def next(self, seconds: float) -> Change | None:
        """Wait for a change; None if there is none for so long.

        Raises:
          ClusterError: Kubernetes refuses to tell, or is away for too long.
        """
        try:
            found = self._queue.get(timeout=max(seconds, 0.001))
        except Empty:
            return None
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        for follower in self._followers:
            follower.stop()

    def _run(self, follower: _Follower, optional: bool) -> None:
        try:
            for change in follower.changes():
                self._queue.put(change)
        except ClusterError as error:
            if follower.stopped.is_set():
                return
            if optional and error.status == 403:
                self._say(f"goes on without {follower.resource}: {error}")
            else:
                self._fail(error)
        except Exception as error:
            self._fail(error)
        finally:
            follower.listed.set()

    def _fail(self, error: Exception) -> None:
        self._failed = error
        self._queue.put(error)


class _Follower:
    def __init__(
        self, cluster: Cluster, function: Callable[..., Any], resource: str, selectors: dict[str, str]
    ) -> None:
        self.resource = resource
        self.listed = threading.Event()
        self.stopped = threading.Event()
        self.thread: threading.Thread | None = None
        self._cluster = cluster
        self._function = function
        self._where = {"namespace": cluster.namespace, **selectors}
        self._known: dict[str, Document] = {}
        self._version = ""
        self._open: Any = None

    def changes(self) -> Iterator[Change]:
        while not self.stopped.is_set():
            yield from self._list()
            with contextlib.suppress(_TooOldError):
                while not self.stopped.is_set():
                    yield from self._watch()

    def stop(self) -> None:
        """End the watch; a connection that is open is shut, or the thread would listen for the rest of its time."""
        self.stopped.set()
        with contextlib.suppress(Exception):
            self._open.shutdown()
        if self.thread:
            self.thread.join(timeout=2)

    def _list(self) -> Iterator[Change]:
        """Tell of all that is there, and of what has gone while nobody listened."""
        found = self._cluster.call_plain(self._function, verb="list", resource=self.resource, **self._where)
        self._version = found["metadata"]["resourceVersion"]
        now = {item["metadata"]["uid"]: item for item in found["items"]}
        gone = [item for uid, item in self._known.items() if uid not in now]
        self._known = now
        yield from (Change(self.resource, item, is_deleted=True) for item in gone)
        yield from (Change(self.resource, item, is_deleted=False) for item in now.values())
        self.listed.set()

    def _watch(self) -> Iterator[Change]:
        """Listen until the connection ends, however.

        Raises:
          _TooOldError: the server no longer knows what has happened since.
          ClusterError: Kubernetes refuses to tell, or is away for too long.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        begun = time.monotonic()
        try:
            for event in self._events():
                if change := self._take(event):
                    yield change
        except ClusterError as error:  # when it was to be opened
            if error.status == _GONE:
                raise _TooOldError from error
            raise
        except ApiException as error:  # the last that it said
            if error.status == _GONE:
                raise _TooOldError from error
        except HTTPError:
            pass  # it was cut
        if time.monotonic() - begun < _HASTY:
            self.stopped.wait(_HASTY)

    def _events(self) -> Iterator[Document]:
        from kubernetes.watch import Watch

        def opened(**kwargs: Any) -> Any:
            kwargs |= {**self._where, "_preload_content": False}
            self._open = self._cluster.call(self._function, verb="watch", resource=self.resource, **kwargs)
            if self.stopped.is_set():  # meanwhile
                self._open.shutdown()
            return self._open

        more = {"resource_version": self._version, "timeout_seconds": _SECONDS, "allow_watch_bookmarks": True}
        yield from Watch().stream(opened, **more, _request_timeout=(5, _SECONDS + 15))

    def _take(self, event: Document) -> Change | None:
        item = event["raw_object"]
        self._version = item["metadata"]["resourceVersion"]
        if event["type"] == "BOOKMARK":
            return None
        is_deleted = event["type"] == "DELETED"
        if is_deleted:
            self._known.pop(item["metadata"]["uid"], None)
        else:
            self._known[item["metadata"]["uid"]] = item
        return Change(self.resource, item, is_deleted)


class _TooOldError(Exception):
    pass
