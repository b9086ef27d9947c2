raise ImportError("no such driver")


def handle(event, context):
    return 1
