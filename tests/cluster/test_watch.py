"""A feed misses nothing, however its connections end, and asks for no more than it has to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fededge.cluster.api import Cluster
from fededge.cluster.watch import Change, Feed
from fededge.errors import ClusterError
from tests.cluster.api_server import ApiServer

Make = Callable[..., None]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def feed(cluster: Cluster, said: list[str]) -> Iterator[Feed]:
    feed = Feed(cluster, said.append)
    yield feed
    begun = time.monotonic()
    feed.close()
    assert time.monotonic() - begun < 3  # though its connections would be open for a minute


def config(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"a": "b"}}, "data": data}


def follow(feed: Feed, cluster: Cluster, **options: Any) -> None:
    feed.follow(cluster.core.list_namespaced_config_map, "configmaps", label_selector="a=b", **options)
    feed.ready()


def take(feed: Feed) -> tuple[str, bool]:
    change = feed.next(20)
    assert isinstance(change, Change)
    return change.object["metadata"]["name"], change.is_deleted


def asked(server: ApiServer, verb: str) -> int:
    return sum((one.verb, one.resource) == (verb, "configmaps") for one in server.requests)


def test_it_tells_what_is_there_and_what_becomes_of_it(feed: Feed, cluster: Cluster, api_server: ApiServer) -> None:
    api_server.put(config("one"))
    api_server.put({**config("other"), "metadata": {"name": "other"}})
    follow(feed, cluster)
    assert take(feed) == ("one", False)
    api_server.put(config("two"))
    assert take(feed) == ("two", False)
    api_server.put(config("two", changed="yes"))
    change = feed.next(20)
    assert change is not None
    assert change.object["data"] == {"changed": "yes"}
    api_server.remove("configmaps", "one")
    assert take(feed) == ("one", True)
    assert feed.next(0.1) is None
    assert (asked(api_server, "list"), asked(api_server, "watch")) == (1, 1)


def test_a_watch_that_is_cut_goes_on_where_it_was(feed: Feed, cluster: Cluster, api_server: ApiServer) -> None:
    follow(feed, cluster)
    for number in range(3):
        api_server.put(config(f"before-{number}"))
        assert take(feed) == (f"before-{number}", False)
        api_server.drop_watches()
        api_server.put(config(f"meanwhile-{number}"))
        assert take(feed) == (f"meanwhile-{number}", False)
    assert asked(api_server, "list") == 1


def test_after_410_it_lists_anew_and_tells_what_has_gone(feed: Feed, cluster: Cluster, api_server: ApiServer) -> None:
    for name in ("gone", "stays"):
        api_server.put(config(name))
    follow(feed, cluster)
    assert {take(feed), take(feed)} == {("gone", False), ("stays", False)}
    api_server.go_away(1.0)
    api_server.remove("configmaps", "gone")
    api_server.put(config("new"))
    api_server.compact()
    assert take(feed) == ("gone", True)
    assert {take(feed), take(feed)} == {("stays", False), ("new", False)}
    assert asked(api_server, "list") == 2


def test_bookmarks_keep_a_quiet_watch_fresh(feed: Feed, cluster: Cluster, api_server: ApiServer) -> None:
    api_server.bookmarks = 0.1
    follow(feed, cluster)
    api_server.put({**config("unseen"), "metadata": {"name": "unseen"}})
    time.sleep(0.5)
    api_server.compact()  # all that it has heard of by a bookmark alone
    api_server.drop_watches()
    api_server.put(config("seen"))
    assert take(feed) == ("seen", False)
    assert asked(api_server, "list") == 1


def test_what_a_server_says_while_it_is_busy_is_waited_out(feed: Feed, cluster: Cluster, api_server: ApiServer) -> None:
    api_server.fail(times=1, status=500, verb="list", resource="configmaps")
    api_server.fail(times=1, status=429, verb="watch", resource="configmaps", retry_after=1)
    follow(feed, cluster)
    api_server.put(config("one"))
    assert take(feed) == ("one", False)


def test_a_right_that_is_missing_is_an_error(feed: Feed, cluster: Cluster, api_server: ApiServer) -> None:
    api_server.forbid("list", "configmaps")
    with pytest.raises(ClusterError, match="list configmaps"):
        follow(feed, cluster)


def test_a_right_that_is_missing_later_is_an_error_then(feed: Feed, cluster: Cluster, api_server: ApiServer) -> None:
    follow(feed, cluster)
    api_server.forbid("watch", "configmaps")
    api_server.drop_watches()
    with pytest.raises(ClusterError, match="watch configmaps"):
        feed.next(20)


def test_what_is_optional_is_done_without(feed: Feed, cluster: Cluster, api_server: ApiServer, said: list[str]) -> None:
    api_server.forbid("list", "configmaps")
    follow(feed, cluster, optional=True)
    assert feed.next(0.2) is None
    assert len(said) == 1
    assert said[0].startswith("goes on without configmaps: ")
    assert "list configmaps" in said[0]


def test_a_server_that_stays_away_is_an_error_after_the_clusters_patience(
    feed: Feed, cluster: Cluster, api_server: ApiServer
) -> None:
    cluster._patience = 1.0
    follow(feed, cluster)
    api_server.go_away(60)
    with pytest.raises(ClusterError, match="does not answer") as raised:
        feed.next(20)
    assert raised.value.status == 0
