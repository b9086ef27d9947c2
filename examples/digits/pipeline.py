"""The main job: from scans of handwritten digits to a published model, with nothing done twice and nothing lost, whenever it is killed.

Run it, kill it with -9, run the same command again: it goes on.

    python examples/digits/pipeline.py --store sqlite:digits/store.db --models digits/registry.db

Nothing here knows of crashes. What each task may cost or do after one is said by its annotations, and only there.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
from typing import Any

import registry as models  # the file beside this one

import exoflow

CHUNKS = 8


def note() -> None:
    """One line for each run of a task, in the file that DIGITS_LOG names: whoever watches can count them."""
    if path := os.environ.get("DIGITS_LOG"):
        me = exoflow.current_task()
        with open(path, "a", encoding="ascii") as log:
            log.write(f"{me.epoch} {me.task_id}\n")


# --- data: no effects, so only what is costly to have again is saved ---------------------------------------------------------------


@exoflow.task(can_rollback=True)
def ingest() -> dict[str, Any]:
    """Read the scans. Another day they might be others, so it is not deterministic; it is saved, and read once."""
    note()
    from sklearn.datasets import load_digits

    found = load_digits()
    return {"images": found.images.astype("uint8"), "labels": found.target.astype("uint8")}


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def clean(raw: dict[str, Any]) -> dict[str, Any]:
    """Scale, shuffle and split. A function of its input, and quick: made again when needed, never stored."""
    note()
    import numpy as np

    images, labels = raw["images"] / 16.0, raw["labels"]
    order = np.random.default_rng(1797).permutation(len(images))
    parts = {"train": order[:1200], "choose": order[1200:1500], "test": order[1500:]}
    return {name: (images[rows], labels[rows]) for name, rows in parts.items()}


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def split(data: dict[str, Any], count: int) -> list[Any]:
    """The training digits in chunks."""
    note()
    images, labels = data["train"]
    return [(number, images[number::count], labels[number::count]) for number in range(count)]


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False, executor="process")
def augment(chunk: Any, copies: int) -> Any:
    """Turned and shifted copies, as many hands would write them. Runs in a process pool, one task for each chunk."""
    note()
    import numpy as np
    from scipy import ndimage

    number, images, labels = chunk
    chance = np.random.default_rng(number)
    made = [images]
    for _ in range(copies):
        turned = ndimage.rotate(images, chance.uniform(-15, 15), axes=(1, 2), reshape=False, order=1)
        made.append(ndimage.shift(turned, (0, *chance.uniform(-0.7, 0.7, 2)), order=1))
    return np.concatenate(made).astype("float32"), np.tile(labels, copies + 1)


# --- training: costly and a matter of chance, so saved; but nobody waits for the save until something outside depends on it ----------


@exoflow.task(can_rollback=True, checkpoint="async", executor="process")
def train(chunks: list[Any], neurons: int, epochs: int, seed: int | None) -> dict[str, Any]:
    """One candidate. Without a seed it draws one: a second run would make another model."""
    note()
    import warnings

    import numpy as np
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    seed = int.from_bytes(os.urandom(4)) if seed is None else seed
    images, labels = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    network = MLPClassifier((neurons,), max_iter=epochs, batch_size=128, learning_rate_init=2e-3, random_state=seed)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # it stops after `epochs`, as it was told to
        network.fit(images.reshape(len(images), -1), labels)
    weights = [layer.astype("float32") for layer in (*network.coefs_, *network.intercepts_)]
    return {"neurons": neurons, "seed": seed, "weights": weights}


def accuracy(weights: list[Any], examples: tuple[Any, Any]) -> float:
    """The share of ``examples`` that a network with these weights reads correctly."""
    import numpy as np

    images, labels = examples
    inner, outer, inner_bias, outer_bias = weights
    hidden = np.maximum(images.reshape(len(images), -1) @ inner + inner_bias, 0)
    return round(float(((hidden @ outer + outer_bias).argmax(1) == labels).mean()), 4)


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def pick(candidates: list[dict[str, Any]], data: dict[str, Any]) -> dict[str, Any]:
    """The best candidate on digits that none has seen, and how good it is on others that nobody has seen."""
    note()
    import numpy as np

    best = max(candidates, key=lambda model: (accuracy(model["weights"], data["choose"]), model["neurons"], model["seed"]))
    file = io.BytesIO()
    np.savez(file, *best["weights"])
    return {
        "model": file.getvalue(),
        "sha256": hashlib.sha256(file.getvalue()).hexdigest(),
        "accuracy": accuracy(best["weights"], data["test"]),
        "seeds": [model["seed"] for model in candidates],
    }


# --- the outside world ---------------------------------------------------------------------------------------------------------------


def release_slot(registry: str, holder: str) -> None:
    """Undoes :func:`reserve_slot`, also if it died before it knew its slot."""
    models.release(registry, holder)


@exoflow.task(rollback=release_slot)
def reserve_slot(registry: str, holder: str, best: dict[str, Any]) -> int:
    """Undoable: should this die half-way, the slot is given back before another is taken."""
    note()
    return models.reserve(registry, holder)


@exoflow.task
def publish(registry: str, slot: int, best: dict[str, Any]) -> str:
    """Commits: nobody can unsee a public model. It starts when what it publishes can no longer change, and its key makes it idempotent."""
    note()
    key = exoflow.current_task().idempotency_key
    models.publish(registry, key, slot, best["sha256"], best["accuracy"], best["model"])
    return key


@exoflow.task
def write_ledger(registry: str, slot: int, best: dict[str, Any], published: str) -> str:
    """Commits too."""
    note()
    line = f"slot {slot}: model {best['sha256'][:12]}, accuracy {best['accuracy']}, published as {published[:12]}"
    models.append(registry, exoflow.current_task().idempotency_key, line)
    return line


@exoflow.task(deterministic=True, can_rollback=True)
def report(slot: int, best: dict[str, Any], line: str) -> dict[str, Any]:
    """The result."""
    note()
    return {"slot": slot, "sha256": best["sha256"], "accuracy": best["accuracy"], "seeds": best["seeds"], "ledger": line}


# --- together ------------------------------------------------------------------------------------------------------------------------


@exoflow.workflow
def digits(registry: str, recipes: list[tuple[int, int]], copies: int, seeds: list[int] | None) -> Any:
    """Ordinary-looking code: inside a workflow, calling a task puts it into the DAG."""
    data = clean(ingest())
    chunks = augment.map(split(data, CHUNKS), copies)
    candidates = [train(chunks, *recipe, seeds[n] if seeds else None) for n, recipe in enumerate(recipes)]
    best = pick(candidates, data)
    slot = reserve_slot(registry, "digits", best)
    published = publish(registry, slot, best)
    return report(slot, best, write_ledger(registry, slot, best, published))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="sqlite:digits.db")
    parser.add_argument("--models", default="registry.db", help="the model registry")
    parser.add_argument("--copies", type=int, default=15)
    parser.add_argument("--recipes", type=json.loads, default=[[32, 30], [64, 30], [96, 30], [128, 30]], help="[[neurons, epochs], ...]")
    parser.add_argument("--seeds", type=json.loads, default=None, help="one for each recipe; drawn by chance if omitted")
    given = parser.parse_args()
    models.create(given.models)
    with exoflow.Engine(given.store) as engine:
        result = engine.run(digits, given.models, given.recipes, given.copies, given.seeds, name="digits")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
