"""`python -m pipeline.quality.latency SAVED_MODEL HISTORIES.npy`: milliseconds on one thread."""

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
_CALLS: Final = 2_000
_WARM_UP: Final = 100
_RANDOM_SEED: Final = 1


def main() -> None:
    """Print the median of each batch size as JSON."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read by oneDNN when TensorFlow is imported
    with without_native_messages():
        tf = load_tensorflow()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = tf.saved_model.load(sys.argv[1])
    ask = model.signatures[SIGNATURE]
    histories = np.load(Path(sys.argv[2]))
    found = {str(size): _median_ms(tf, ask, histories, size) for size in BATCH_SIZES}
    print(json.dumps(found))


def _median_ms(tf: Any, ask: Any, histories: np.ndarray[Any, Any], size: int) -> float:
    random = np.random.default_rng(_RANDOM_SEED)
    region = tf.constant(np.full(size, -1, np.int64))
    took = []
    for call in range(_WARM_UP + _CALLS // size):
        history = tf.constant(histories[random.integers(len(histories), size=size)])
        started = time.perf_counter()
        ask(history=history, region=region)["user_vector"].numpy()
        if call >= _WARM_UP:
            took.append(time.perf_counter() - started)
    return float(np.median(took)) * 1e3


if __name__ == "__main__":
    main()
