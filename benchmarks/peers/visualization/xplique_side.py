"""Xplique's side: `maco` as it comes, on Keras's MobileNetV2 with random weights."""

import argparse
import functools
import os
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from sides import serve
from xplique.features_visualizations import Objective, maco


def time_steps(model: Any, request: dict[str, Any]) -> list[float]:
    """Seconds of a step, one figure: of a longer and a shorter run, the difference by the steps between them.

    Args:
        model: What is looked into.
        request: `steps`, `crops`, and `size` of the picture.
    """
    seconds = []
    for steps in (2, 2 + request["steps"]):
        objective = Objective.neuron(model, -1, 7)
        began = time.perf_counter()
        maco(objective, nb_steps=steps, nb_crops=request["crops"], custom_shape=(request["size"],) * 2)
        seconds.append(time.perf_counter() - began)
    return [(seconds[1] - seconds[0]) / request["steps"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.applications.MobileNetV2(weights=None, classifier_activation=None)
    serve(functools.partial(time_steps, model))


if __name__ == "__main__":
    main()
