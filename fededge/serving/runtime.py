"""A model for MLServer: a version of the store, or whatever version is current."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.logging import logger
from mlserver.types import InferenceRequest, InferenceResponse, MetadataModelResponse, Parameters
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fededge.errors import FedEdgeError, InputError
from fededge.serving.served import Served, load
from fededge.serving.tensors import INPUT, OUTPUT, decode, described, encode
from fededge.store import open_store
from fededge.store.trainings import TrainingStore

T = TypeVar("T")


class Source(BaseModel):
    """Where the model is: the model's `parameters.extra` in MLServer's settings."""

    model_config = ConfigDict(extra="forbid")

    store: str = Field("", description="s3://bucket/prefix or a folder; empty for FEDEDGE_STORE")
    training: str = Field(description="name of the training")
    version: str = Field("current", description="as v7; or current, whichever that is")
    follow_s: float = Field(0, ge=0, description="seconds between looks at what is current; 0 stays with the first")

    @property
    def follows(self) -> bool:
        return bool(self.follow_s) and self.version == "current"


class FedEdgeModel(MLModel):  # type: ignore[misc]
    """Answers with the learner's own predictions.

    It is ready when the weights are loaded and have answered once. All predictions are of one thread: learners seed
    what their libraries share.
    """

    async def load(self) -> bool:
        """Load the version.

        Raises:
          FedEdgeError: it is not there, damaged, or its workload is not installed.
        """
        source = _source(self.settings.parameters.extra if self.settings.parameters else None)
        self._trainings = TrainingStore(open_store(source.store), source.training)
        self._learning = ThreadPoolExecutor(1, "predict")
        self._following: asyncio.Task[None] | None = None
        await self._take(source.version)
        if source.follows:
            self._following = asyncio.create_task(self._follow(source.follow_s))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer with the version that is loaded when the question comes."""
        served = self._served
        x = decode(payload, served.inputs)
        try:
            answer = await self._alone(lambda: served.predict(x))
        except (FedEdgeError, ValueError) as error:  # as of scikit-learn, of a value that is missing
            raise InferenceError(f"the model refuses this input: {in_a_line(error)}") from error
        # No response names a version that did not make it.
        return InferenceResponse(model_name=self.name, model_version=served.version, outputs=[encode(answer)])

    async def metadata(self) -> MetadataModelResponse:
        served = self._served
        return MetadataModelResponse(
            name=self.name,
            versions=[served.version],
            platform=f"fededge_{served.workload}",
            inputs=[described(INPUT, served.inputs)],
            outputs=[described(OUTPUT, self._outputs)],
            parameters=Parameters(training=self._trainings.name, model=served.model),
        )

    async def unload(self) -> bool:
        if following := getattr(self, "_following", None):
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
        return True

    async def _take(self, version: str) -> None:
        """Load a version, and only then answer with it."""
        served: Served = await asyncio.to_thread(load, self._trainings, version)
        outputs = await self._alone(served.outputs)
        self._served, self._outputs = served, outputs
        logger.info(f"answering with {self._trainings.name} {served.version}, {served.model}")

    async def _follow(self, seconds: float) -> None:
        """Go over to each new current version; whatever goes wrong, the old one stays."""
        while True:
            await asyncio.sleep(seconds)
            try:
                head = await asyncio.to_thread(self._trainings.head)
                if head.pointer.version != self._served.version:
                    await self._take(head.pointer.version)
            except FedEdgeError as error:
                logger.warning(f"staying with {self._served.version}: {error}")
            except Exception:  # of the user's own code: the next version may be better
                logger.exception(f"staying with {self._served.version}")

    async def _alone(self, compute: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._learning, compute)


def in_a_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _source(extra: object) -> Source:
    try:
        return Source.model_validate(extra or {})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"parameters.extra of the model: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from error
