"""A trip: reserve a seat and a hotel, then charge the card. A saga, without writing one.

    python trip_booking.py --crash      # dies as if by kill -9 when it has reserved something and has told nobody
    python trip_booking.py              # the same command, without dying: goes on

    python trip_booking.py --declined   # another trip, whose card is declined: what was reserved is released

What is booked stands in trip-book.txt, which plays the outside world.
"""

import os
import pathlib
import signal
import sys

import exoflow

BOOK = pathlib.Path("trip-book.txt")


def write(line: str) -> None:
    with BOOK.open("a", encoding="utf-8") as book:
        book.write(line + "\n")


def release(trip: str, what: str) -> None:  # gets the task's own arguments, by name; runs at most once too often, so it is idempotent
    write(f"{trip}: {what} released")


@exoflow.task(rollback=release)
def reserve(trip: str, what: str) -> str:
    write(f"{trip}: {what} reserved")
    if "--crash" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{what} of {trip}"


@exoflow.task
def charge(trip: str, reservations: list[str], card: str) -> str:
    """Cannot be undone. It starts when both reservations are durable, and its key would tell a bank that it asks a second time."""
    if card == "declined":
        raise ValueError("the card was declined")
    write(f"{trip}: charged for {' and '.join(reservations)}, key {exoflow.current_task().idempotency_key[:8]}")
    return "booked"


@exoflow.workflow
def book(trip: str, card: str) -> str:
    return charge(trip, [reserve(trip, "seat"), reserve(trip, "hotel")], card)


if __name__ == "__main__":
    trip, card = ("Oslo", "declined") if "--declined" in sys.argv else ("Rome", "valid")
    try:
        print(exoflow.run_async(book, trip, card, name=trip, on_failure="rollback").result())
    except exoflow.WorkflowFailed as failure:
        print(failure)
    print(BOOK.read_text("utf-8"), end="")
