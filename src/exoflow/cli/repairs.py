"""What the static checks say of a DAG, and which checkpoints mode auto would turn on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exoflow.client.intake import Dag
    from exoflow.core.checks import Finding
    from exoflow.core.spec.graph import Graph
    from exoflow.define.plan import Plan


def plan_of(dag: Dag, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan:
    """The plan that ``run`` would check; of a DAG with an InputNode also without its inputs. Raises UsageError."""
    from exoflow.define import plan
    from exoflow.define.dag import Node

    if not isinstance(dag, Node):
        return plan.plan_of(dag.bind(*args, **kwargs))
    return plan.make_plan(dag, args, kwargs) if args or kwargs else plan.plan_of(dag)


def findings_of(graph: Graph) -> list[Finding]:
    """What could break exactly-once in a crash."""
    from exoflow.core import checks

    return checks.check(graph)


def turned_on_in(graph: Graph) -> tuple[str, ...]:
    """The tasks that mode auto would save although they are annotated otherwise."""
    from exoflow.core import checks

    return checks.repair(graph)[1]
