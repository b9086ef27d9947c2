"""Functions of AWS Lambda on this machine, for development and tests: the Invoke API in front (``server``), Amazon's own runtime client in
processes behind it (``worker``), and faults on request.

    with FunctionServer({"charge": Function("payments.charge", folder="functions")}) as server:
        charge = exoflow.aws_lambda("charge", endpoint=server.url, region="local")

Needs the package awslambdaric. It runs what it is given, with the rights of this process: not for code of others.
"""

from exoflow.testing.functions.server import FunctionServer
from exoflow.testing.functions.worker import Fault, Function

__all__ = ["Fault", "Function", "FunctionServer"]
