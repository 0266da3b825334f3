"""`python -m tf_serving`: the stand-in model server, configured by `TF_SERVING_*`."""

import os
import sys

# Read when the libraries are imported. What they would print to standard error is reported as one
# line of our own (gRPC), or is news about the processor (TensorFlow).
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

from service_runtime.process import run_process
from tf_serving.config import TfServingSettings
from tf_serving.server import serve

if __name__ == "__main__":
    sys.exit(run_process(TfServingSettings, serve))
