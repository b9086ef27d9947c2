"""Fan-out over a list that is known only at run time: one task for each file of a folder, in worker processes, and one that joins them.

The words are counted again after a crash, not stored: counting is deterministic and cheap. The list of files is saved, because another
day the folder might hold others.
"""

import collections
import pathlib

import exoflow


@exoflow.task(can_rollback=True)
def files_in(folder: str) -> list[str]:
    return sorted(str(path) for path in pathlib.Path(folder).glob("*.txt"))


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False, executor="process")
def count(path: str, shortest: int) -> collections.Counter[str]:
    words = pathlib.Path(path).read_text("utf-8").lower().split()
    return collections.Counter(word for word in words if len(word) >= shortest)


@exoflow.task(deterministic=True, can_rollback=True)
def most_common(counts: list[collections.Counter[str]]) -> list[tuple[str, int]]:
    total = sum(counts, collections.Counter())
    return sorted(total.items(), key=lambda item: (-item[1], item[0]))[:3]


@exoflow.workflow
def popular_words(folder: str, shortest: int = 4) -> list[tuple[str, int]]:
    return most_common(count.map(files_in(folder), shortest))


if __name__ == "__main__":
    folder = pathlib.Path("texts")
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(["the quick brown fox", "a quick brown dog", "quick thinking"]):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    print(exoflow.run(popular_words, str(folder), name="popular-words"))
