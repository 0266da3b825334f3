"""`python -m pipeline.quality.latency SAVED_MODEL HISTORIES.npy BLOCKS`: ms on one thread."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline._quiet import load_tensorflow, without_native_messages
from pipeline.exported import SIGNATURE

__all__ = ["BATCH_SIZES", "main"]

BATCH_SIZES: Final = (1, 16)
_CALLS: Final = 200
_WARM_UP: Final = 100
_RANDOM_SEED: Final = 1


def main() -> None:
    """Print the median of each batch size as JSON.

    That of the fastest of so many blocks of calls: whatever else runs here only adds to it.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # read by oneDNN when TensorFlow is imported
    with without_native_messages():
        tf = load_tensorflow()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = tf.saved_model.load(sys.argv[1])
    ask = model.signatures[SIGNATURE]
    histories = np.load(Path(sys.argv[2]))
    blocks = int(sys.argv[3])
    found = {str(size): _median_ms(tf, ask, histories, size, blocks) for size in BATCH_SIZES}
    print(json.dumps(found))


def _median_ms(tf: Any, ask: Any, histories: np.ndarray[Any, Any], size: int, count: int) -> float:
    random = np.random.default_rng(_RANDOM_SEED)
    region = tf.constant(np.full(size, -1, np.int64))

    def call() -> float:
        history = tf.constant(histories[random.integers(len(histories), size=size)])
        started = time.perf_counter()
        ask(history=history, region=region)["user_vector"].numpy()
        return time.perf_counter() - started

    for _ in range(_WARM_UP):
        call()
    blocks = [[call() for _ in range(_CALLS)] for _ in range(count)]
    return min(float(np.median(block)) for block in blocks) * 1e3


if __name__ == "__main__":
    main()
