"""Bugs of ``runtime``, ``client`` and ``worker``: what was decided is carried out wrongly."""

from __future__ import annotations

from exoflow.testing.mutants.mutant import Mutant

DRIVING = (
    # --- becoming durable ----------------------------------------------------------------------------------------------------------
    Mutant(
        name="acknowledged_when_queued",
        breaks="a save counts as soon as it is queued, before the store has seen it",
        module="exoflow.runtime.commit",
        old="                self._queue.append((write, answer))\n                return\n",
        new='                self._queue.append((write, lambda _verdict: None))\n                refusal = "applied"\n',
        ring="kills",
    ),
    Mutant(
        name="unknown_commit_is_tried_again",
        breaks="nobody knows whether a write arrived, and it is written once more",
        module="exoflow.runtime.commit",
        old="                self._break(group, error)\n                return False\n",
        new="                continue\n",
        ring="simulation",
    ),
    Mutant(
        name="fenced_write_counts",
        breaks="an engine that lost a workflow goes on with it",
        module="exoflow.runtime.perform",
        old='    if verdict == "applied":',
        new="    if not isinstance(verdict, ExoflowError):",
        ring="simulation",
    ),
    Mutant(
        name="full_disk_is_ignored",
        breaks="the disk is full, and what could not be saved counts as saved",
        module="exoflow.runtime.commit",
        old="            except StorageFullError as error:\n",
        new='            except StorageFullError:\n                [answer("applied") for _, answer in group]\n                break\n',
        ring="simulation",
    ),
    Mutant(
        name="large_outputs_are_not_written",
        breaks="the record of a large output is written, and its bytes never are",
        module="exoflow.runtime.values",
        old="blob = store.blobs.put(pieces)",
        new="blob = codec.digest(pieces).hex()",
        ring="kills",
    ),
    Mutant(
        name="payload_of_the_wrong_record",
        breaks="after a crash an output is read from the entry of another",
        module="exoflow.runtime.recover",
        old="run.next_seq = entries[-1].seq + 1",
        new="run.next_seq = len(entries)",
        ring="simulation",
    ),
    Mutant(
        name="digest_is_not_checked",
        breaks="damaged bytes of an output are taken for the output",
        module="exoflow.runtime.values",
        old="if payload is None or codec.digest((payload,)) != stored.digest:",
        new="if payload is None:",
        ring="simulation",
    ),
    Mutant(
        name="saved_work_is_forgotten",
        breaks="after a crash everything runs again",
        module="exoflow.runtime.recover",
        old="return [journal.decode(entry.body) for entry in entries]",
        new="return [r for e in entries if not isinstance(r := journal.decode(e.body), journal.OutputSaved)]",
        ring="kills",
    ),
    # --- running and undoing ---------------------------------------------------------------------------------------------------------
    Mutant(
        name="key_of_the_attempt",
        breaks="a second attempt has another idempotency key, so the charge is made twice",
        module="exoflow.worker.context",
        old="\\0{self.task_id}\\0{self.basis}",
        new="\\0{self.task_id}\\0{self.basis}\\0{self.epoch}\\0{self.attempt}",
        ring="kills",
    ),
    Mutant(
        name="rollbacks_are_skipped",
        breaks="it is said that a booking was cancelled, and that is all",
        module="exoflow.runtime.attempts",
        old='    loop.submit(_SideCall(loop, run, command, run.calls[command.task].rollback, "undo", answer))',
        new="    loop.post(run, ev.UndoSucceeded(task=command.task, attempt=command.attempt))",
        ring="kills",
    ),
    Mutant(
        name="rollbacks_get_other_values",
        breaks="a rollback is called with other values than its task",
        module="exoflow.runtime.calls",
        old="            kwargs[name] = given[name]",
        new="            kwargs[name] = ()",
        ring="kills",
    ),
    Mutant(
        name="doubts_are_denied",
        breaks="the function that is asked whether a transfer happened is not listened to",
        module="exoflow.runtime.attempts",
        old="        return settle_doubt(run, task, value)\n\n    loop.submit",
        new="        return settle_doubt(run, task, False)\n\n    loop.submit",
        ring="kills",
        suite="doubt_asked",
    ),
    Mutant(
        name="cancelled_attempts_start",
        breaks="a task that waited for its turn starts although the workflow was cancelled meanwhile",
        module="exoflow.runtime.attempts",
        old="return state is not None and state.attempt == attempt and state.phase is Phase.RUNNING",
        new="return state is not None",
        ring="simulation",
    ),
    # --- owning ------------------------------------------------------------------------------------------------------------------------
    Mutant(
        name="living_owners_are_robbed",
        breaks="a workflow is taken from an engine that lives",
        module="exoflow.client.engine",
        old="!= resumed or not self._is_free(head):",
        new="!= resumed:",
        ring="simulation",
    ),
    Mutant(
        name="claims_whatever_is_there",
        breaks="recovery acts on a list of yesterday: it takes a workflow that somebody else has taken up since",
        module="exoflow.client.engine",
        old="return self.store.claim(name, epoch=head.epoch, owner=self._owner.id) == epoch",
        new="return self.store.claim(name, epoch=self._head(name).epoch, owner=self._owner.id) is not None",
        ring="simulation",
    ),
)
