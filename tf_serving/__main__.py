"""`python -m tf_serving`: the stand-in model server, configured by `TF_SERVING_*`."""

import os
import sys
from importlib.util import find_spec, module_from_spec

from service_runtime.grpc_environment import prepare_grpc

prepare_grpc()
# Read when TensorFlow is imported; what it would print is news about the processor.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
# TensorFlow without what `import tensorflow` brings beside the modules that run a graph (Keras,
# datasets, distribution, each public name): two thirds of the seconds of a start. TF2's
# behaviour stays off, which changes nothing for a graph that is read into a session.
if (tensorflow := find_spec("tensorflow")) is not None:
    sys.modules["tensorflow"] = module_from_spec(tensorflow)

from service_runtime.process import run_process
from tf_serving.config import TfServingSettings
from tf_serving.server import serve

if __name__ == "__main__":
    sys.exit(run_process(TfServingSettings, serve))
