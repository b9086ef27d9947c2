"""Bugs of Refs: what outputs refer to is used again, let go, lost or saved wrongly."""

from __future__ import annotations

from exoflow.testing.mutants.mutant import Mutant

_WORKFLOWS = "tests/refs/test_refs_in_workflows.py -k not processes and not nothing"

REFERRING = (
    Mutant(
        name="changed_state_is_used_again",
        breaks="a task that runs again gets the actor as its first attempt left it",
        module="exoflow.runtime.refs",
        old="            if each.adapter.mutable and reader in self._users.get(each.version, ()):\n",
        new="            if False:\n",
        ring="simulation",
    ),
    Mutant(
        name="released_while_held",
        breaks="data is freed although another output refers to it",
        module="exoflow.runtime.refs",
        old="        holders.discard(holder)\n        if holders:\n            return False\n",
        new="",
        ring="simulation",
    ),
    Mutant(
        name="loss_says_it_never_began",
        breaks="a task that acted before it found its input lost is not undone before it runs again",
        module="exoflow.runtime.attempts",
        old="InputsLost(task=task, attempt=attempt, lost=lost, began=True)",
        new="InputsLost(task=task, attempt=attempt, lost=lost)",
        ring="suites",
        suite=_WORKFLOWS,
    ),
    Mutant(
        name="lost_output_stays_in_memory",
        breaks="whoever needs a lost output gets the Ref that leads nowhere, again and again",
        module="exoflow.core.demand",
        old="    state.commands.append(Release(task=task.id))  # whatever is left of it there\n",
        new="",
        ring="suites",
        suite=_WORKFLOWS,
    ),
    Mutant(
        name="failed_checkpoint_counts",
        breaks="an error in the checkpoint of a Ref is swallowed, and the output counts as saved",
        module="exoflow.runtime.refs",
        old="        raise CheckpointFailedError(what=holder_of(task), ref=adapter.id(ref), reason=reason) from error\n",
        new="        return reason\n",
        ring="suites",
        suite=_WORKFLOWS,
    ),
    Mutant(
        name="data_of_refs_is_collected",
        breaks="what the checkpoint of a Ref gave is removed as garbage",
        module="exoflow.core.journal",
        old="(self.blob, *(ref.blob for ref in self.refs))",
        new="(self.blob,)",
        ring="suites",
        suite=_WORKFLOWS,
    ),
)
