"""The server's process: its options, MLServer, and an exit code that says what was wrong."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import ClassVar, NoReturn

from mlserver import MLServer, ModelSettings, Settings
from mlserver.logging import logger
from mlserver.settings import ModelParameters
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from fededge.errors import FedEdgeError, InputError, WorkloadError
from fededge.monitoring import logs
from fededge.serving.runtime import FedEdgeModel, Source, in_a_line

# MLServer's and Uvicorn's lines go where `logs.lines` takes all of `logging`.
_FORWARDED = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {name: {"level": "INFO", "handlers": []} for name in ("mlserver", "uvicorn")},
}


class Options(BaseSettings, Source):  # type: ignore[misc]
    """Serve a version of a training by the Open Inference Protocol.

    Each option can be a variable, as FEDEDGE_TRAINING. MLServer's own are MLSERVER_HTTP_PORT and so on.
    """

    model_config = SettingsConfigDict(
        env_prefix="FEDEDGE_", cli_prog_name="python -m fededge.serving", cli_kebab_case=True, cli_hide_none_type=True
    )

    name: str = Field("", description="of the model, in URLs; empty for the training's")


class OnlyModel(FedEdgeModel):
    """The one that the process is for: without it, the process ends.

    Attributes:
      failed: why it cannot be served.
    """

    failed: ClassVar[FedEdgeError | None] = None

    async def load(self) -> bool:
        try:
            return await super().load()
        except FedEdgeError as error:
            OnlyModel.failed = error
        except Exception as error:  # of the user's own code
            logger.exception("the workload cannot be served")
            OnlyModel.failed = WorkloadError(f"the workload cannot be served: {in_a_line(error)}")
        signal.raise_signal(signal.SIGTERM)  # how MLServer is told to end in good order
        return False


def main() -> None:
    """Serve until the process is told to end."""
    with logs.lines(step="serve"):
        try:
            options = CliApp.run(Options, cli_exit_on_error=True)
        except ValidationError as error:
            first = error.errors()[0]
            _fail(InputError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}; see --help"))
        logs.learn(training=options.training)
        asyncio.run(_serve(options))
        if OnlyModel.failed:
            _fail(OnlyModel.failed)


def _fail(error: FedEdgeError) -> NoReturn:
    if logs.is_json():
        logs.write("error", str(error), reason=type(error).__name__, exit_code=error.exit_code)
    else:
        sys.stderr.write(f"error: {error}\n")
    sys.exit(error.exit_code)


async def _serve(options: Options) -> None:
    # In this process: a pool of workers would load the weights several times, and swap them at several moments.
    forwarded = {"logging_settings": _FORWARDED} if logs.is_json() else {}
    settings = Settings(parallel_workers=0, debug=False, **forwarded)
    extra = options.model_dump(exclude={"name"})
    # A name of its own for what is pinned, so that /v2/models/NAME/versions/v7 is there; what is current changes.
    version = None if options.version == "current" else options.version
    model = ModelSettings(
        name=options.name or options.training,
        implementation=OnlyModel,
        parameters=ModelParameters(version=version, extra=extra),
    )
    await MLServer(settings).start([model])
