"""Handlers that the tests run in processes of awslambdaric. Effects are lines of a file."""

import os
import signal
import time
import urllib.request


def mark(name):
    urllib.request.urlopen(f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/mark/{name}", data=b"").close()


def note(event, line):
    with open(event["ledger"], "a", encoding="utf-8") as ledger:
        ledger.write(line + "\n")


def lines(event):
    with open(event["ledger"], "a+", encoding="utf-8") as ledger:
        ledger.seek(0)
        return ledger.read().split()


def told(_event, context):
    custom = context.client_context.custom["exoflow"] if context.client_context else None
    return {"told": custom, "event": _event}


def charge(event, context):
    """Idempotent: an order is charged once for each key."""
    line = f"charge:{context.client_context.custom['exoflow']['idempotency_key']}"
    mark("before")
    if line not in lines(event):
        note(event, line)
    mark("after")
    return "charged"


def transfer(event, _context):
    """Neither idempotent nor undoable."""
    mark("before")
    note(event, "transfer")
    mark("after")
    return "transferred"


def book(event, _context):
    mark("before")
    note(event, "book")
    mark("after")
    return "booked"


def cancel(event, _context):
    note(event, "cancel")


def take(event, context):
    """Takes a seat for its key, which gives it back."""
    mark("before")
    note(event, f"take:{context.client_context.custom['exoflow']['idempotency_key']}")
    mark("after")
    return len(lines(event))


def give_back(event, context):
    key = context.client_context.custom["exoflow"]["idempotency_key"]
    mark("before")
    if lines(event).count(f"take:{key}") > lines(event).count(f"back:{key}"):
        note(event, f"back:{key}")
    mark("after")


def fail(event, _context):
    raise LookupError(f"no order {event['order']}")


def hang(event, _context):
    note(event, "hang")
    time.sleep(60)


def large(event, _context):
    note(event, "large")
    return "x" * (event["size"])


def process(_event, _context):
    mark("here")
    return os.getpid()


def die(event, _context):
    """Has its effect, and is gone."""
    note(event, "die")
    os.kill(os.getpid(), signal.SIGKILL)
