"""Asks a server by gRPC, in its own environment: python -m tests.serving.call_grpc PORT X.npy ANSWER.npy."""

from __future__ import annotations

import sys

import grpc
import numpy as np
from mlserver.grpc import dataplane_pb2 as messages
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

from tests.serving.trained import NAME


def main(port: str, inputs: str, answer: str) -> None:
    x = np.load(inputs)
    tensor = messages.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=x.shape)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = messages.ModelInferRequest(model_name=NAME, inputs=[tensor], raw_input_contents=[x.tobytes()])
        response = GRPCInferenceServiceStub(channel).ModelInfer(request)
    dtype = {"FP32": np.float32, "FP64": np.float64}[response.outputs[0].datatype]
    np.save(answer, np.frombuffer(response.raw_output_contents[0], dtype).reshape(response.outputs[0].shape))


if __name__ == "__main__":
    main(*sys.argv[1:])
