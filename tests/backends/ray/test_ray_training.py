"""The training pipeline of the paper, small: data that nobody waits for, an actor that learns, and its five kinds of failure.

Everything is seeded, so the weights at the end must be those of a run without failures, to the last bit.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray

import exoflow
from tests.backends.ray.asking import engine_on

pytestmark = pytest.mark.slow  # whole pipelines, whose processes are killed

EPOCHS, CHUNKS, FATAL = 6, 3, 3
"""At the beginning of epoch ``FATAL`` something dies, once."""
SEEDED = {"executor": "ray", "deterministic": True, "can_rollback": True, "executor_options": {"num_cpus": 0.5}}


def dies_now(marks: str, fault: str, what: str, epoch: int) -> bool:
    """Whether this is the moment for ``what`` to die."""
    mark = Path(marks, "dead")
    if fault != what or epoch != FATAL or mark.exists():
        return False
    mark.touch()
    return True


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@ray.remote(num_cpus=0.1)
def read_images(number):
    return np.random.default_rng(number).random((64, 256))


@ray.remote(num_cpus=0.1)
def distort(images, epoch, number, marks, fault):
    if number == 0 and dies_now(marks, fault, "augmented data", epoch):
        kill(os.getpid())
    return images * np.random.default_rng(epoch).random(256)


@ray.remote(num_cpus=0)
class Trainer:
    def __init__(self):
        self.weights = np.zeros(256)

    def fit(self, *batches):
        for batch in batches:
            self.weights = 0.9 * self.weights + batch.mean(axis=0)

    def get_weights(self):
        return self.weights

    def process(self):
        return os.getpid()

    def checkpoint(self):
        return self.weights

    def restore(self, state):
        self.weights = state


@exoflow.task(**SEEDED)
def ingest(marks):
    with Path(marks, "ingested").open("a") as file:
        file.write(f"{os.getpid()}\n")
    return [read_images.remote(number) for number in range(CHUNKS)]


@exoflow.task(**SEEDED)
def create_trainer():
    return Trainer.remote()


@exoflow.task(**SEEDED, checkpoint=False)
def augment(chunks, epoch, marks, fault):
    if dies_now(marks, fault, "augmentation", epoch):
        kill(os.getpid())
    return [distort.remote(chunk, epoch, number, marks, fault) for number, chunk in enumerate(chunks)]


@exoflow.task(**SEEDED)
def train(trainer, batches, epoch, marks, fault):
    if dies_now(marks, fault, "training actor", epoch):
        kill(ray.get(trainer.process.remote()))
    if dies_now(marks, fault, "ingested data", epoch):
        kill(int(Path(marks, "ingested").read_text().split()[-1]))
    if dies_now(marks, fault, "cluster", epoch):
        kill(int(Path(marks, "driver").read_text()))
    ray.get(trainer.fit.remote(*batches))
    return trainer


@exoflow.task(executor="ray", deterministic=True, can_rollback=True)
def finish(trainer):
    return hashlib.sha256(ray.get(trainer.get_weights.remote()).tobytes()).hexdigest()


def pipeline(marks, fault):
    chunks, trainer = ingest.bind(marks), create_trainer.bind()
    for epoch in range(EPOCHS):
        batches = augment.bind(chunks, epoch, marks, fault)
        trainer = train.options(checkpoint=epoch % 2 == 0).bind(trainer, batches, epoch, marks, fault)
    return finish.bind(trainer)


def wanted():
    """The weights that plain numpy comes to."""
    weights = np.zeros(256)
    for epoch in range(EPOCHS):
        for number in range(CHUNKS):
            batch = np.random.default_rng(number).random((64, 256)) * np.random.default_rng(epoch).random(256)
            weights = 0.9 * weights + batch.mean(axis=0)
    return hashlib.sha256(weights.tobytes()).hexdigest()


@pytest.mark.parametrize("fault", ["nothing", "ingested data", "training actor", "augmentation", "augmented data"])
def test_weights_do_not_show_what_died(cluster, tmp_path, fault):
    with engine_on(tmp_path) as engine:
        assert engine.run(pipeline(str(tmp_path), fault)) == wanted()
    assert Path(tmp_path, "dead").exists() == (fault != "nothing")


def live(folder):
    Path(folder, "driver").write_text(str(os.getpid()))
    with engine_on(folder) as engine:
        print(engine.run(pipeline(folder, "cluster"), name="training"))


def test_weights_do_not_show_that_everything_died(cluster, tmp_path):
    """With the driver go all its workers, objects and actors."""
    program = [sys.executable, "-c", f"from test_ray_training import live; live({str(tmp_path)!r})"]
    environment = os.environ | {"RAY_ADDRESS": cluster.address, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    first = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == -signal.SIGKILL, first.stderr
    second = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert second.stdout.strip() == wanted()
