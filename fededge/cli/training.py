"""What the commands share that make versions of a training: its name, and telling what has become of it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from fededge.cli.output import console, print_json
from fededge.cli.run_view import RunView
from fededge.store import Store, keys
from fededge.store.trainings import TrainingStore, training_names


def training_name(store: Store, wanted: str, workload: str, new: bool) -> str:
    """Name the training that is meant.

    Args:
      store: that it is in.
      wanted: its name; empty for the workload's.
      workload: what is trained.
      new: take the first name of `name`, `name-2`, … that no training has.
    """
    base = name_of(wanted, workload)
    if not new:
        return base
    taken = set(training_names(store))
    return next(
        name for name in itertools.chain([base], (f"{base}-{i}" for i in itertools.count(2))) if name not in taken
    )


def name_of(wanted: str, workload: str) -> str:
    """Name a training as wanted, or after its workload.

    Raises:
      InputError: it is no name for a training.
    """
    name = wanted or re.sub(r"[^a-z0-9]+", "-", workload.rpartition(":")[0].lower() or workload).strip("-")
    keys.training_folder(name)
    return name


def tell_result(
    trainings: TrainingStore, view: RunView, report: Path | None, curve: Path | None, log: Path, as_json: bool
) -> None:
    current = trainings.version()
    if as_json:
        print_json(
            {
                "training": trainings.name,
                "store": trainings.store.url,
                "version": current.version,
                "metrics": current.metrics,
                "rounds": [done.as_json() for done in view.rounds],
                "report": str(report),
                "learning_curve": str(curve),
                "log": str(log),
            }
        )
        return
    console.print(view.table())
    score = f"{current.metric} {current.metrics[current.metric]:.4f}" if current.metrics else ""
    console.print(f"{trainings.name} is at {current.version}: {score}")
    console.print(f"learning curve  {curve}\nround report    {report}\nlog             {log}", soft_wrap=True)
