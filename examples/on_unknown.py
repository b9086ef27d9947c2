"""A transfer that is neither idempotent nor undoable. After a crash the honest question is: did it happen?

``on_unknown`` says who answers. Here a function looks at the bank's statement. With ``on_unknown="fail"`` the workflow would stop
IN_DOUBT, and a person would say so: ``exoflow resume pay-rent --happened transfer``.

    python on_unknown.py --crash    # dies after the money has gone, before the bank's answer
    python on_unknown.py            # asks the statement, and does not pay twice
"""

import os
import pathlib
import signal
import sys

import exoflow

STATEMENT = pathlib.Path("bank-statement.txt")


def lines() -> list[str]:
    return STATEMENT.read_text("utf-8").splitlines() if STATEMENT.exists() else []


def look_it_up(to: str, amount: int) -> bool | str:
    """Gets the task's own arguments. False: it did not happen, run it again. True, or any other value as its output: it did."""
    found = [number for number, line in enumerate(lines(), 1) if line == f"{amount} to {to}"]
    return f"line {found[0]} of the statement" if found else False


@exoflow.task(on_unknown=look_it_up)
def transfer(to: str, amount: int) -> str:
    with STATEMENT.open("a", encoding="utf-8") as statement:
        statement.write(f"{amount} to {to}\n")
    if "--crash" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"line {len(lines())} of the statement"


if __name__ == "__main__":
    print(exoflow.run(transfer, "landlord", 900, name="pay-rent"))
    print(lines())
