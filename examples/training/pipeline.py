"""Trains a classifier of scanned digits on Ray: the pipeline of the paper's machine learning example, small.

    ingest      reads 1,797 scans and puts them into Ray's object store                          dear to do again, so it is saved
    augment_1 … starts Ray tasks that shift the scans, and returns their references at once      cheap to make again, never saved
    train_1 …   one epoch on an actor that holds the weights; returns its next version           every third one is saved
    evaluate    how many of the scans that were held back it gets right
    publish     writes weights and score to the registry, an SQLite file                         commits

Scans, shifted scans and weights stay in Ray: references to them go through the engine. Everything is seeded, so the weights must be the
same after any crash. Start it again with the same folder, and it goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import ray

import exoflow

EPOCHS = 7
PARTS, COPIES = 3, 8
HELD_BACK = 300
PURE = {"executor": "ray", "can_rollback": True, "deterministic": True}


def note(log: str, line: str) -> None:
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


class Softmax:
    """One layer, trained by gradient descent."""

    def __init__(self) -> None:
        self.weights = np.zeros((65, 10))

    def fit(self, images: np.ndarray, labels: np.ndarray) -> None:
        labels = np.tile(labels, len(images) // len(labels))
        for begin in range(0, len(images), 500):
            x = np.c_[images[begin : begin + 500], np.ones(len(images[begin : begin + 500]))]
            guess = np.exp(x @ self.weights)
            guess /= guess.sum(axis=1, keepdims=True)
            guess[np.arange(len(x)), labels[begin : begin + 500]] -= 1
            self.weights -= 0.05 * x.T @ guess / len(x)

    def guess(self, images: np.ndarray) -> np.ndarray:
        return np.argmax(np.c_[images, np.ones(len(images))] @ self.weights, axis=1)


@ray.remote(num_cpus=0)
class Trainer:
    """The model on an actor. A snapshot is its weights."""

    def __init__(self) -> None:
        self.model = Softmax()

    def fit(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.model.fit(images, labels)

    def weights(self) -> np.ndarray:
        return self.model.weights

    def process(self) -> int:
        return os.getpid()

    def checkpoint(self) -> np.ndarray:
        return self.model.weights

    def restore(self, weights: np.ndarray) -> None:
        self.model = Softmax()
        self.model.weights = np.array(weights)


def scans() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.data / 16.0, digits.target


def shifted(images: np.ndarray, epoch: int, number: int) -> np.ndarray:
    """Copies of all scans, moved by a pixel or not, and made a little noisy."""
    chance = np.random.default_rng((epoch, number))
    squares = images.reshape(-1, 8, 8)
    moved = np.vstack([np.roll(squares, chance.integers(-1, 2, size=2), axis=(1, 2)).reshape(-1, 64) for _ in range(COPIES)])
    return np.clip(moved + chance.normal(0, 0.05, moved.shape), 0, 1)


@exoflow.task(**PURE)
def ingest(log: str) -> dict[str, Any]:
    note(log, "ingest")
    images, labels = scans()
    return {"images": ray.put(images[:-HELD_BACK]), "labels": ray.put(labels[:-HELD_BACK])}


@exoflow.task(**PURE, checkpoint=False)
def augment(log: str, epoch: int, data: dict[str, Any]) -> list[Any]:
    """References to what Ray tasks are still making."""
    note(log, f"augment_{epoch}")
    return [ray.remote(shifted).remote(data["images"], epoch, number) for number in range(PARTS)]


@exoflow.task(**PURE, checkpoint=False)
def create() -> Any:
    return Trainer.remote()


@exoflow.task(**PURE, checkpoint=False)
def train(log: str, epoch: int, trainer: Any, data: dict[str, Any], parts: list[Any]) -> Any:
    """The next version of the actor."""
    for number, part in enumerate(parts):
        ray.get(trainer.fit.remote(part, data["labels"]))
        if number == 0:
            note(log, f"train_{epoch}")
            note(f"{log}.actors", str(ray.get(trainer.process.remote())))
    return trainer


@exoflow.task(**PURE)
def evaluate(trainer: Any) -> dict[str, Any]:
    model = Softmax()
    model.weights = ray.get(trainer.weights.remote())
    images, labels = scans()
    right = int((model.guess(images[-HELD_BACK:]) == labels[-HELD_BACK:]).sum())
    return {"right": right, "weights": hashlib.blake2b(np.round(model.weights, 6).tobytes(), digest_size=8).hexdigest()}


@exoflow.task
def publish(log: str, registry: str, found: dict[str, Any]) -> str:
    """Write down the score, under the key of this task: however often it is asked, it is there once."""
    note(log, "publish")
    key = exoflow.current_task().idempotency_key
    with closing(sqlite3.connect(registry)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS models (key TEXT PRIMARY KEY, digest TEXT, correct INTEGER)")
        connection.execute("INSERT OR IGNORE INTO models VALUES (?, ?, ?)", (key, found["weights"], found["right"]))
    return f"{found['right']} of {HELD_BACK} scans that were held back are read correctly"


def pipeline(log: str, registry: str) -> exoflow.Node:
    data = ingest.bind(log)
    trainer = create.bind()
    for epoch in range(1, EPOCHS + 1):
        parts = augment.options(name=f"augment_{epoch}").bind(log, epoch, data)
        trainer = train.options(name=f"train_{epoch}", checkpoint=epoch % 3 == 0).bind(log, epoch, trainer, data, parts)
    return publish.bind(log, registry, evaluate.bind(trainer))


def expected() -> tuple[str, int]:
    """Digest of the weights, and score, in plain Python."""
    images, labels = scans()
    model = Softmax()
    for epoch in range(1, EPOCHS + 1):
        for number in range(PARTS):
            model.fit(shifted(images[:-HELD_BACK], epoch, number), labels[:-HELD_BACK])
    right = int((model.guess(images[-HELD_BACK:]) == labels[-HELD_BACK:]).sum())
    return hashlib.blake2b(np.round(model.weights, 6).tobytes(), digest_size=8).hexdigest(), right


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    os.makedirs(folder, exist_ok=True)
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=500_000_000, log_to_driver=False, logging_level="ERROR")
    with exoflow.Engine(folder / "store.db") as engine:
        print(engine.run(pipeline(str(folder / "log"), str(folder / "registry.db")), name="training"))
    ray.shutdown()
