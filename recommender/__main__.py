"""`python -m recommender`: settings from `RECOMMENDER_*`, runs until SIGTERM."""

import sys

from recommender.config import RecommenderSettings
from recommender.server import serve
from service_runtime.process import run_process

if __name__ == "__main__":
    sys.exit(run_process(RecommenderSettings, serve))
