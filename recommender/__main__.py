"""`python -m recommender`: serve until SIGTERM, configured by `RECOMMENDER_*`."""

import sys

from service_runtime.grpc_environment import prepare_grpc

prepare_grpc()

from recommender.config import RecommenderSettings
from recommender.server import serve
from service_runtime.process import run_process

if __name__ == "__main__":
    sys.exit(run_process(RecommenderSettings, serve))
