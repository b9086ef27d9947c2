import exoflow
from exoflow.testing import Effects, crash_everywhere

outside = Effects()  # stands for the payment provider


@exoflow.task(can_rollback=True)  # wrong: it says that the task has no effect
def charge_badly(order):
    outside.apply("charge", value=order)


@exoflow.task  # right: it commits, and the provider knows a second attempt by its key
def charge(order):
    outside.apply("charge", value=order, key=exoflow.current_task().idempotency_key)


def test_the_double_charge_is_found():
    assert "'charge' happened twice" in str(crash_everywhere(charge_badly.bind("order-17")))
    assert crash_everywhere(charge.bind("order-17")).ok
