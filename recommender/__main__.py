"""`python -m recommender`: serve until SIGTERM, configured by `RECOMMENDER_*`."""

import os
import sys

# Read when grpc is imported; its own lines would come between ours, which are JSON.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from recommender.config import RecommenderSettings
from recommender.server import serve
from service_runtime.process import run_process

if __name__ == "__main__":
    sys.exit(run_process(RecommenderSettings, serve))
