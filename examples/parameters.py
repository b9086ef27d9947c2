"""One DAG, many runs: InputNode stands for the arguments of ``run``.

The DAG is built once, before its arguments are known. Each run has a name of its own, which is also what makes starting it idempotent:
the same name with the same arguments gives the same result, with others it is refused.
"""

import exoflow


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def net(amount: float, rate: float) -> float:
    return round(amount / (1 + rate), 2)


@exoflow.task(deterministic=True, can_rollback=True)
def invoice(customer: str, amount: float, gross: float) -> str:
    return f"{customer}: {amount:.2f} net, {gross:.2f} gross"


with exoflow.InputNode() as given:  # given[0] is the first argument of run, given.rate the keyword "rate"
    bill = invoice.bind(given[0], net.bind(given[1], given.rate), given[1])


if __name__ == "__main__":
    with exoflow.Engine("sqlite:bills.db") as engine:
        print(engine.run(bill, "Ada", 120.0, rate=0.2, name="bill-1"))
        print(engine.run(bill, "Grace", 107.0, rate=0.07, name="bill-2"))
        print(engine.run(bill, "Ada", 120.0, rate=0.2, name="bill-1"))  # run already: its result, at once
        try:
            engine.run(bill, "Ada", 999.0, rate=0.2, name="bill-1")
        except exoflow.ExoflowError as error:
            print(type(error).__name__)
