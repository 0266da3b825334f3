"""Several processes that train one model: who they are, and what they agree on.

Vertex AI and Kubeflow's training operator tell each process by TF_CONFIG; where there is none this
process is the only one.
"""

import json
import os
from typing import Any

import tensorflow as tf

from pipeline.errors import TrainingError

__all__ = ["Workers"]


class Workers:
    """This process among those that train, and the strategy that makes one of them."""

    def __init__(self, strategy: Any, index: int, count: int) -> None:
        self.strategy = strategy
        self.index = index
        """From 0; the chief's."""
        self.count = count
        self._sum = tf.function(self._sum_of_all)

    @classmethod
    def of_this_process(cls) -> "Workers":
        """Find the others by TF_CONFIG, and wait until they are there.

        To be called before anything else of TensorFlow's. Raises TrainingError.
        """
        config = os.environ.get("TF_CONFIG")
        if not config:
            return cls(tf.distribute.get_strategy(), 0, 1)
        index, count = _place(config)
        if count == 1:
            return cls(tf.distribute.get_strategy(), 0, 1)
        return cls(tf.distribute.MultiWorkerMirroredStrategy(), index, count)

    @property
    def is_chief(self) -> bool:
        """Whether this is the process that writes."""
        return self.index == 0

    def agree(self, flag: bool) -> bool:
        """Answer the chief's flag: clocks and last bits differ, and all must go on or none."""
        if self.count == 1:
            return flag
        return bool(self._sum(tf.constant(float(flag and self.is_chief))) > 0)

    def sum(self, run: Any, **values: Any) -> Any:
        """Run a function in each process on its own values; answer the sum of what they return."""
        return self.strategy.reduce("SUM", self.strategy.run(run, kwargs=values), axis=None)

    def _sum_of_all(self, value: tf.Tensor) -> tf.Tensor:
        return self.sum(lambda value: value, value=value)


def _place(config: str) -> tuple[int, int]:
    """Count the chief as the first of the workers, as TensorFlow does."""
    try:
        document = json.loads(config)
        cluster, task = document["cluster"], document["task"]
        chiefs, workers = (len(cluster.get(kind, ())) for kind in ("chief", "worker"))
        before = {"chief": 0, "worker": chiefs}[task["type"]]
        return before + int(task["index"]), chiefs + workers
    except (ValueError, KeyError, TypeError) as cause:
        raise TrainingError(
            f"TF_CONFIG is no cluster of chief and workers with this process's task: {cause!r}"
        ) from cause
