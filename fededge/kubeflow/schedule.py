"""Recurring runs: a round every night, or every hour."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from croniter import CroniterError, croniter

from fededge.errors import InputError, KubeflowError
from fededge.kubeflow import EXPERIMENT, SERVICE_ACCOUNT, runs
from fededge.kubeflow import inputs as pipeline_inputs
from fededge.kubeflow.client import Kubeflow
from fededge.kubeflow.submit import Package
from fededge.signals import terminable

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_CRON_FIELDS = 6  # with seconds
_CRON_FIELD = re.compile(r"[\w*?/,#-]+")
_DESCRIPTOR = re.compile(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly)")
_INTERVAL = re.compile(r"(?:@every )?((?:\d{1,9}[smhd])+)")
_TICKS = 1000  # every 15 minutes, more than a week


class Schedule(NamedTuple):
    """A recurring run, as Kubeflow tells of it.

    Attributes:
      when: a cron expression, or `every n s`.
      enabled: it is not paused.
      error: why it does not work, if so.
    """

    id: str
    name: str
    when: str
    enabled: bool
    error: str
    link: str


def schedules(kubeflow: Kubeflow, name: str = "") -> list[Schedule]:
    """List the recurring runs of the namespace, or those of a name; the oldest first."""
    where = {"namespace": kubeflow.namespace or None, **({"filter": runs.named(name)} if name else {})}
    found = [*kubeflow.listed(kubeflow.client.list_recurring_runs, "recurring_runs", **where)]
    found.sort(key=lambda told: (str(told.created_at), told.recurring_run_id))
    return [_schedule(kubeflow, told) for told in found if not name or told.display_name == name]


def schedule(
    kubeflow: Kubeflow,
    package: Package,
    inputs: Mapping[str, Any],
    name: str,
    when: str,
    *,
    replace: bool = False,
    experiment: str = EXPERIMENT,
    service_account: str = SERVICE_ACCOUNT,
) -> Schedule:
    """Make a recurring run: one run at a time, and none for what was missed.

    Args:
      kubeflow: from `connect`.
      package: the pipeline, `fl_round` as a rule.
      inputs: of each run; `interval_s`, for the alert when no version comes, is that of `when` unless it is given.
      name: of the recurring run; Kubeflow would take it twice, FedEdge does not.
      when: a cron expression of 6 fields, with seconds first, or of 5 without; or an interval as 90s, 15m, 1h, 1d.
      replace: put it in the place of the one that has the name.
      experiment: that its runs belong to.
      service_account: of their pods.

    Raises:
      InputError: there is one of that name, or something cannot be as asked.
      KubeflowError: Kubeflow refuses it, or does not answer; the one that has the name goes on as before.
    """
    trigger = parse_time(when)
    values = pipeline_inputs.complete(package.document, inputs)
    if "interval_s" in pipeline_inputs.definitions(package.document):
        values = {"interval_s": _interval_s(trigger), **values}
    runs.require_small(values)
    there = schedules(kubeflow, name)
    if there and not replace:
        raise InputError(
            f"there is a recurring run {name} already ({there[0].when}): --replace puts this one in its place, --name "
            "gives it another name"
        )
    place = runs.experiment_id(kubeflow, experiment)
    before = {old.id for old in there}

    def make() -> Schedule:
        told = kubeflow.client.create_recurring_run(
            place,
            name,
            pipeline_package_path=str(package.path),
            params=values,
            max_concurrency="1",  # an int64, which JSON of the API writes as a string
            no_catchup=True,
            service_account=service_account or None,
            enabled=not there,
            **trigger,
        )
        return _schedule(kubeflow, told)

    def new() -> Schedule | None:
        return next((made for made in schedules(kubeflow, name) if made.id not in before), None)

    if there:
        return _replaced(kubeflow, there, make, new)
    return kubeflow.create(make, new)


def _replaced(
    kubeflow: Kubeflow, there: list[Schedule], make: Callable[[], Schedule], new: Callable[[], Schedule | None]
) -> Schedule:
    """Make the new one, paused, change over, and delete the old; those go on if anything comes in between."""
    client, paused = kubeflow.client, list[Schedule]()
    with terminable():
        try:
            made = kubeflow.create(make, new)
            for old in there:
                if old.enabled:
                    paused.append(old)
                    kubeflow.call(client.disable_recurring_run, old.id)
            kubeflow.call(client.enable_recurring_run, made.id)
        except BaseException as error:  # also Ctrl-C
            _bring_back(kubeflow, paused, new, error)
            raise
    for old in there:
        try:
            _delete(kubeflow, old)
        except KubeflowError as error:
            line = f"{error}; the new recurring run {made.name} is on, the old one is paused: the same again deletes it"
            raise KubeflowError(line, error.status) from error
    return made._replace(enabled=True)


def _bring_back(
    kubeflow: Kubeflow, paused: list[Schedule], new: Callable[[], Schedule | None], error: BaseException
) -> None:
    """Resume the old ones and delete the new one.

    Args:
      kubeflow: where.
      paused: what to resume; taken out as they are.
      new: finds the new one, if it was made.
      error: why.

    Raises:
      KubeflowError: some stay paused.
    """
    try:
        while paused:
            kubeflow.call(kubeflow.client.enable_recurring_run, paused[0].id)
            paused.pop(0)
        if made := new():
            _delete(kubeflow, made)
    except KubeflowError as second:
        if paused:
            name = paused[0].name
            line = f"the recurring run {name} stays paused: `fededge schedule resume {name}` has it go on"
            what = error if isinstance(error, KubeflowError) else "interrupted"
            raise KubeflowError(f"{what}; {line}", second.status) from error


def pause(kubeflow: Kubeflow, name: str) -> Schedule:
    """Start no more runs until it is resumed; one that goes on is not touched."""
    kubeflow.call(kubeflow.client.disable_recurring_run, _one(kubeflow, name).id)
    return _one(kubeflow, name)


def resume(kubeflow: Kubeflow, name: str) -> Schedule:
    """Start runs again, from the next time on."""
    kubeflow.call(kubeflow.client.enable_recurring_run, _one(kubeflow, name).id)
    return _one(kubeflow, name)


def delete(kubeflow: Kubeflow, name: str) -> Schedule:
    """Delete a recurring run; its runs stay, and one that goes on is not touched."""
    gone = _one(kubeflow, name)
    _delete(kubeflow, gone)
    return gone


def _delete(kubeflow: Kubeflow, old: Schedule) -> None:
    """Delete a recurring run, and not its runs: Kubernetes would, as they belong to it, in the middle of a round."""
    api = kubeflow.client.recurring_runs  # kfp's own method does not take the policy
    kubeflow.call(api.recurring_run_service_delete_recurring_run, old.id, propagation_policy="ORPHAN")


def _one(kubeflow: Kubeflow, name: str) -> Schedule:
    if found := schedules(kubeflow, name):
        return found[0]
    known = ", ".join(sorted({other.name for other in schedules(kubeflow)})) or "none"
    raise InputError(f"no recurring run {name}; there are: {known}")


def parse_time(when: str) -> dict[str, Any]:
    """Read when runs start.

    Returns:
      What kfp's client calls it: `interval_second` or `cron_expression`, with its value.

    Raises:
      InputError: it is no cron expression and no interval.
    """
    if match := _INTERVAL.fullmatch(when):
        parts = re.findall(r"(\d+)(\w)", match[1])
        if seconds := sum(int(number) * _UNITS[unit] for number, unit in parts):
            return {"interval_second": str(seconds)}
    if _DESCRIPTOR.fullmatch(when):
        return {"cron_expression": when}
    fields = when.split()
    if len(fields) == _CRON_FIELDS - 1:
        fields = ["0", *fields]
    cron = " ".join(fields)
    if (
        len(fields) == _CRON_FIELDS
        and all(_CRON_FIELD.fullmatch(field) for field in fields)
        and croniter.is_valid(cron, second_at_beginning=True)
    ):
        return {"cron_expression": cron}
    raise InputError(
        f"{when!r} is no time: write a cron expression, as '0 2 * * *' for two o'clock every night, or an interval, as "
        "90s, 15m, 1h or 1d"
    )


def _interval_s(trigger: Mapping[str, str]) -> int:
    """Return the most seconds between two of the next runs; 0 of a cron expression whose time never comes."""
    if every := trigger.get("interval_second"):
        return int(every)
    try:
        ticks = croniter(trigger["cron_expression"], datetime.now(UTC), second_at_beginning=True).all_next(float)
        return int(max(later - earlier for earlier, later in itertools.pairwise(itertools.islice(ticks, _TICKS))))
    except CroniterError:
        return 0


def _schedule(kubeflow: Kubeflow, told: Any) -> Schedule:
    trigger = told.trigger
    cron = trigger.cron_schedule.cron if trigger and trigger.cron_schedule else ""
    every = trigger.periodic_schedule.interval_second if trigger and trigger.periodic_schedule else ""
    return Schedule(
        told.recurring_run_id,
        told.display_name,
        cron or f"every {every} s",
        told.status == "ENABLED",
        told.error.message if told.error and told.error.message else "",
        kubeflow.link(f"recurringrun/details/{told.recurring_run_id}"),
    )
