"""`fededge schedule` against a server that speaks Kubeflow's REST API."""

from __future__ import annotations

import json

import pytest

from fededge.errors import InputError, KubeflowError
from fededge.kubeflow.client import Kubeflow
from fededge.kubeflow.schedule import schedule, schedules
from fededge.kubeflow.submit import package
from tests.kubeflow.conftest import Fededge
from tests.kubeflow.kfp_server import Document, KfpServer

Capture = pytest.CaptureFixture[str]


def _only(server: KfpServer) -> Document:
    (found,) = server.documents["recurringruns"].values()
    return found


def test_one_round_at_a_time_and_none_for_what_was_missed(server: KfpServer, fededge: Fededge, capfd: Capture) -> None:
    assert fededge("schedule", "create", "0 2 * * *", "--clients", "6", "--json") == 0
    made = _only(server)
    assert json.loads(capfd.readouterr().out)["id"] == made["recurring_run_id"]
    assert (made["display_name"], made["max_concurrency"], made["no_catchup"]) == ("digits", "1", True)
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * *"}}
    assert (made["mode"], made["service_account"]) == ("ENABLE", "fededge-runner")
    inputs = made["runtime_config"]["parameters"]
    assert (inputs["training"], inputs["clients"]) == ("digits", 6)
    assert "base_version" not in inputs, "each starts from what is current then"
    assert made["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "fl-round"


DAY = 86_400


def _cron(expression: str) -> Document:
    return {"cron_schedule": {"cron": expression}}


def _every(seconds: int) -> Document:
    return {"periodic_schedule": {"interval_second": str(seconds)}}


@pytest.mark.parametrize(
    ("when", "trigger", "interval"),
    [
        ("0 30 9 * * 1-5", _cron("0 30 9 * * 1-5"), 3 * DAY),  # over the weekend
        ("*/15 * * * *", _cron("0 */15 * * * *"), 900),
        ("*/15 9-16 * * MON-FRI", _cron("0 */15 9-16 * * MON-FRI"), 2 * DAY + 16 * 3600 + 900),
        ("0 0 2 ? * *", _cron("0 0 2 ? * *"), DAY),
        ("0 2 1 * *", _cron("0 0 2 1 * *"), 31 * DAY),
        ("@daily", _cron("@daily"), DAY),
        ("@every 90m", _every(5400), 5400),
        ("90s", _every(90), 90),
        ("15m", _every(900), 900),
        ("2h", _every(7200), 7200),
        ("1h30m", _every(5400), 5400),
        ("1d", _every(DAY), DAY),
    ],
)
def test_times(server: KfpServer, kubeflow: Kubeflow, when: str, trigger: Document, interval: int) -> None:
    with package("fl_round") as ready:
        schedule(kubeflow, ready, {}, "mine", when)
    made = _only(server)
    assert made["trigger"] == trigger
    assert made["runtime_config"]["parameters"]["interval_s"] == interval, "for the alert when no version comes"


def test_an_interval_that_is_given_stays(server: KfpServer, fededge: Fededge) -> None:
    assert fededge("schedule", "create", "1h", "--input", "interval_s=0") == 0
    assert _only(server)["runtime_config"]["parameters"]["interval_s"] == 0


def test_a_pipeline_without_rounds_has_no_interval(server: KfpServer, kubeflow: Kubeflow) -> None:
    with package("fl_comparison") as ready:
        schedule(kubeflow, ready, {}, "mine", "1h")
    assert "interval_s" not in _only(server)["runtime_config"].get("parameters", {})


@pytest.mark.parametrize(
    "when", ["tomorrow", "0h", "1 h", "@every 100ms", "61 25 * * *", "* * *", "0 2 * * * * *", "0 2 * * $", ""]
)
def test_what_is_no_time(server: KfpServer, kubeflow: Kubeflow, when: str) -> None:
    with package("fl_round") as ready, pytest.raises(InputError, match="is no time: write a cron expression, as"):
        schedule(kubeflow, ready, {}, "mine", when)
    assert not server.documents["experiments"]


def test_a_time_is_judged_before_the_login(server: KfpServer, fededge: Fededge, capfd: Capture) -> None:
    assert fededge("schedule", "create", "61 25 * * *") == InputError.exit_code
    assert "is no time" in capfd.readouterr().err
    assert not server.requests


def test_a_name_is_taken_once(server: KfpServer, fededge: Fededge, capfd: Capture) -> None:
    """Kubeflow would start both, one beside the other."""
    assert fededge("schedule", "create", "1h") == 0
    assert fededge("schedule", "create", "2h") == InputError.exit_code
    error = capfd.readouterr().err
    assert "there is a recurring run digits already (every 3600 s): --replace puts this one in its place" in error
    before = _only(server)["recurring_run_id"]
    assert fededge("schedule", "create", "2h", "--replace") == 0
    assert _only(server)["recurring_run_id"] != before
    assert _only(server)["trigger"] == {"periodic_schedule": {"interval_second": "7200"}}


def test_a_replacement_that_is_refused_leaves_the_old_one_at_work(
    server: KfpServer, fededge: Fededge, capfd: Capture
) -> None:
    assert fededge("schedule", "create", "1h") == 0
    before = _only(server)["recurring_run_id"]

    server.refuse("POST", "/apis/v2beta1/recurringruns", 400, "invalid cron expression")
    assert fededge("schedule", "create", "0 0 31 2 *", "--replace") == KubeflowError.exit_code
    assert "refuses it (400): invalid cron expression" in capfd.readouterr().err
    assert (_only(server)["recurring_run_id"], _only(server)["status"]) == (before, "ENABLED")


@pytest.mark.parametrize("action", [("delete", "digits", "--yes"), ("create", "2h", "--replace")])
def test_a_round_that_goes_on_is_not_touched(server: KfpServer, fededge: Fededge, action: tuple[str, ...]) -> None:
    """Kubernetes deletes what belongs to what is deleted, unless it is told not to."""
    assert fededge("schedule", "create", "1h") == 0
    run = server.tick(_only(server)["recurring_run_id"])
    assert fededge("schedule", *action) == 0
    assert run["state"] == "PENDING"


def test_the_old_one_works_until_the_new_one_is_there(server: KfpServer, fededge: Fededge) -> None:
    """Whoever is killed in between leaves one that works."""
    assert fededge("schedule", "create", "1h") == 0
    before = len(server.requests)
    assert fededge("schedule", "create", "2h", "--replace") == 0
    done = [path.rpartition(":")[2] if ":" in path else method for method, path in server.requests[before:]]
    assert [one for one in done if one != "GET"] == ["POST", "disable", "enable", "DELETE"]
    assert _only(server)["status"] == "ENABLED"


def test_a_replacement_that_cannot_begin_is_removed(server: KfpServer, fededge: Fededge, capfd: Capture) -> None:
    assert fededge("schedule", "create", "1h") == 0
    before = _only(server)["recurring_run_id"]
    server.fail(1, 400, ":enable", "no")
    assert fededge("schedule", "create", "2h", "--replace") == KubeflowError.exit_code
    assert capfd.readouterr().err.endswith("refuses it (400): no\n")
    assert (_only(server)["recurring_run_id"], _only(server)["status"]) == (before, "ENABLED")


def test_ctrl_c_in_a_replacement_leaves_the_old_one_at_work(
    server: KfpServer, kubeflow: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    with package("fl_round") as ready:
        old = schedule(kubeflow, ready, {}, "mine", "1h")
        disable = kubeflow.client.disable_recurring_run

        def interrupted(identity: str) -> None:
            disable(identity)
            raise KeyboardInterrupt

        monkeypatch.setattr(kubeflow.client, "disable_recurring_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            schedule(kubeflow, ready, {}, "mine", "2h", replace=True)
    assert (_only(server)["recurring_run_id"], _only(server)["status"]) == (old.id, "ENABLED")


def test_what_stays_paused_is_named(server: KfpServer, fededge: Fededge, capfd: Capture) -> None:
    assert fededge("schedule", "create", "1h") == 0
    server.fail(2, 400, ":enable", "no")
    assert fededge("schedule", "create", "2h", "--replace") == KubeflowError.exit_code
    said = "the recurring run digits stays paused: `fededge schedule resume digits` has it go on"
    assert said in capfd.readouterr().err
    assert fededge("schedule", "resume", "digits") == 0
    assert [one["status"] for one in server.documents["recurringruns"].values()] == ["ENABLED", "DISABLED"]


def test_an_old_one_that_cannot_be_deleted_is_named(server: KfpServer, fededge: Fededge, capfd: Capture) -> None:
    assert fededge("schedule", "create", "1h") == 0
    server.refuse("DELETE", f"/apis/v2beta1/recurringruns/{_only(server)['recurring_run_id']}", 400, "no")
    assert fededge("schedule", "create", "2h", "--replace") == KubeflowError.exit_code
    assert "the new recurring run digits is on, the old one is paused: the same again" in capfd.readouterr().err
    assert [one["status"] for one in server.documents["recurringruns"].values()] == ["DISABLED", "ENABLED"]


def test_one_whose_answer_was_lost_is_not_made_twice(server: KfpServer, kubeflow: Kubeflow) -> None:
    server.lose_answers(1, "/apis/v2beta1/recurringruns")
    with package("fl_round") as ready:
        made = schedule(kubeflow, ready, {}, "mine", "1h")
    assert _only(server)["recurring_run_id"] == made.id


def test_pause_resume_and_delete(server: KfpServer, fededge: Fededge, capfd: Capture) -> None:
    assert fededge("schedule", "create", "1h") == 0
    assert fededge("schedule", "pause", "digits") == 0
    assert _only(server)["status"] == "DISABLED"
    assert fededge("schedule", "list", "--json") == 0
    assert '"enabled": false' in capfd.readouterr().out
    assert fededge("schedule", "resume", "digits") == 0
    assert _only(server)["status"] == "ENABLED"
    assert fededge("schedule", "list") == 0
    assert "digits" in capfd.readouterr().out
    assert fededge("schedule", "delete", "digits") == InputError.exit_code, "there is no terminal to ask on"
    assert fededge("schedule", "delete", "digits", "--yes") == 0
    assert not server.documents["recurringruns"]


@pytest.mark.parametrize("action", [("pause",), ("resume",), ("delete", "--yes")])
def test_a_name_that_there_is_not(server: KfpServer, fededge: Fededge, capfd: Capture, action: tuple[str, ...]) -> None:
    assert fededge("schedule", "create", "1h", "--name", "other") == 0
    command, *options = action
    assert fededge("schedule", command, "digits", *options) == InputError.exit_code
    assert "no recurring run digits; there are: other" in capfd.readouterr().err


def test_only_those_of_the_namespace_are_listed() -> None:
    from fededge.kubeflow.client import connect

    with KfpServer(multi_user=True) as server:
        mine, yours = (connect(host=server.url, namespace=name) for name in ("me", "you"))
        with package("fl_round") as ready:
            schedule(mine, ready, {}, "digits", "1h")
            schedule(yours, ready, {}, "digits", "1h")
        assert len(schedules(mine)) == len(schedules(yours)) == 1
