"""`python -m tf_serving`: the stand-in model server, configured by `TF_SERVING_*`."""

import os
import sys

from service_runtime.grpc_environment import prepare_grpc

prepare_grpc()
# Read when TensorFlow is imported; what it would print is news about the processor.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
# TensorFlow looks for Keras while it is imported, a quarter of the time; graphs need none.
sys.modules["keras"] = None  # type: ignore[assignment]

from service_runtime.process import run_process
from tf_serving.config import TfServingSettings
from tf_serving.server import serve

if __name__ == "__main__":
    sys.exit(run_process(TfServingSettings, serve))
