"""A Kubeflow whose runs really run: the tests' server, and kfp's local runner for what it is sent.

kfp.Client ──► KfpServer ──► the pipeline and the inputs, as they arrived ──► kfp's local runner ──► the store
                   ▲                                                               │
                   └───────────── states of the tasks, as the steps tell ◄─────────┘
"""

from __future__ import annotations

import threading
from pathlib import Path

import yaml

from fededge.errors import FedEdgeError
from fededge.events import Event
from fededge.kubeflow import local
from fededge.run_folder import RunFolder
from tests.kubeflow.kfp_server import Document, KfpServer

TASKS = {
    "distribute": "distribute-model",
    "train": "train-clients",
    "aggregate": "aggregate-updates",
    "evaluate": "evaluate-model",
    "version": "version-model",
}


class LocalCluster:
    """Runs what a server is sent, one run after the other.

    Args:
      server: speaks Kubeflow's REST API.
      folder: for what runs leave behind.
      store: of all runs, as a ConfigMap would say it.
    """

    def __init__(self, server: KfpServer, folder: Path, store: Path) -> None:
        self._server = server
        self._folder = folder
        self._store = store
        self._one_at_a_time = threading.Lock()  # two trainings at once are too much for a small machine
        server.work = self._work

    def _work(self, run: Document) -> None:
        with self._one_at_a_time:
            try:
                self._run(run)
            except FedEdgeError as error:
                self._server.end_run(run["run_id"], "FAILED", str(error))
            else:
                self._server.end_run(run["run_id"])

    def _run(self, run: Document) -> None:
        folder = RunFolder(self._folder)
        sent = run["pipeline_spec"]
        pipeline = folder.path / "pipeline.yaml"
        pipeline.write_text(yaml.dump_all([sent["pipeline_spec"], sent["platform_spec"]], Dumper=yaml.CSafeDumper))
        arguments = {"store": str(self._store), **run["runtime_config"]["parameters"]}
        job = local.environments_job(folder, pipeline, arguments, [], run["run_id"], print)
        self._server.tell(run["run_id"], state="RUNNING")
        for event in local.run(job, folder):
            self._note(run["run_id"], event)

    def _note(self, run: str, event: Event) -> None:
        states = {"started": "RUNNING", "finished": "SUCCEEDED", "failed": "FAILED"}
        if event.phase in TASKS and event.kind in states:
            self._server.add_task(run, TASKS[event.phase], states[event.kind], event.detail)
