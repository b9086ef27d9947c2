"""Bugs of ``core``: what is decided is wrong."""

from __future__ import annotations

from exoflow.testing.mutants.mutant import Mutant

DECISIONS = (
    # --- the commit rule -----------------------------------------------------------------------------------------------------------
    Mutant(
        name="no_commit_rule",
        breaks="a charge is made on an input that may still be drawn anew after a crash",
        module="exoflow.core.readiness",
        old="gate = GATE.get(task.kind)",
        new="gate = None",
    ),
    Mutant(
        name="two_invariants_alone",
        breaks="the paper's two invariants are the gate: a charge stands although another consumer makes its input anew",
        module="exoflow.core.readiness",
        old="Kind.COMMITTING: Prop.STABLE",
        new="Kind.COMMITTING: Prop.RECOVERABLE",
    ),
    Mutant(
        name="undo_without_its_values",
        breaks="a seat is booked with values that may be lost, so that nobody can cancel it",
        module="exoflow.core.readiness",
        old=", Kind.UNDOABLE: Prop.RECOVERABLE}",
        new="}",
    ),
    Mutant(
        name="async_counts_at_once",
        breaks="a checkpoint on its way to the disk counts as saved",
        module="exoflow.core.outcomes",
        old="state.set_saving(task, Saving.APPENDED)",
        new="state.set_saving(task, Saving.APPENDED); task.durable = True",
    ),
    Mutant(
        name="caught_failure_counts_as_deterministic",
        breaks="whether a task fails is taken for a thing that never changes",
        module="exoflow.core.spec.graph",
        old="return self.annotations.deterministic and not self.catch",
        new="return self.annotations.deterministic",
    ),
    # --- versions ------------------------------------------------------------------------------------------------------------------
    Mutant(
        name="versions_of_two_lives_are_equal",
        breaks="after a crash another draw gets the version of the lost one",
        module="exoflow.core.spec.ids",
        old='struct.pack("<qq", epoch, attempt)',
        new='struct.pack("<q", attempt)',
    ),
    Mutant(
        name="redraws_what_is_saved",
        breaks="a saved random number is drawn again once it is not in memory any more",
        module="exoflow.core.state",
        old="return not self.at_hand and self.saving",
        new="return not self.present and self.saving",
    ),
    Mutant(
        name="attempts_begin_anew",
        breaks="an attempt of a sub-workflow's task has the number of an earlier one, whose late answer is taken for its own",
        module="exoflow.core.state",
        old="self.attempts_used[task.id] = task.attempt",
        new="pass",
    ),
    Mutant(
        name="late_answers_count",
        breaks="the answer of an attempt that was given up is taken for that of its successor",
        module="exoflow.core.machine",
        old="if task is not None and task.attempt == event.attempt:",
        new="if task is not None:",
    ),
    # --- withdrawal ----------------------------------------------------------------------------------------------------------------
    Mutant(
        name="withdrawal_one_level_deep",
        breaks="only those who read a lost draw themselves are taken back, not who read them",
        module="exoflow.core.withdrawal",
        old="                stack.append(down)\n",
        new="",
    ),
    Mutant(
        name="record_of_the_withdrawn_stays",
        breaks="after the next crash a withdrawn output is back",
        module="exoflow.core.withdrawal",
        old="if not task.recorded:",
        new="if task.recorded:",
    ),
    Mutant(
        name="parent_undone_before_child",
        breaks="a trip is cancelled before the seats that were booked on it",
        module="exoflow.core.withdrawal",
        old="if task.phase in (Phase.IDLE, Phase.DONE) and task.holds == 0:",
        new="if task.phase in (Phase.IDLE, Phase.DONE):",
    ),
    Mutant(
        name="new_draw_before_the_old_is_gone",
        breaks="a number is drawn anew before what was done with the old one is undone",
        module="exoflow.core.readiness",
        old="if task.missing == 0 and (task.holds == 0 or task.condemned) and may_start",
        new="if task.missing == 0 and may_start",
    ),
    Mutant(
        name="condemned_may_be_read",
        breaks="a task that stays reads an output that is being taken back",
        module="exoflow.core.state",
        old="            and (not self.condemned or reader.condemned)\n",
        new="",
    ),
    Mutant(
        name="forgotten_ancestors",
        breaks="who ran in an earlier life and left no record is taken for one that never ran",
        module="exoflow.core.machine",
        old="growth.mark_forgotten(state, state.tasks.values())",
        new="pass",
    ),
    # --- effects and intents ---------------------------------------------------------------------------------------------------------
    Mutant(
        name="intent_after_start",
        breaks="a booking is made before it is written down that one will be made",
        module="exoflow.core.readiness",
        old="state.move(task, Phase.STARTING)",
        new="run(state, task)",
    ),
    Mutant(
        name="no_intents",
        breaks="an undoable task starts without a word in the journal",
        module="exoflow.core.spec.annotations",
        old="return self.kind is Kind.UNDOABLE or (",
        new="return False and (",
    ),
    Mutant(
        name="rollback_taken_for_done",
        breaks="a crash in the middle of a rollback, and the next life believes that it was finished",
        module="exoflow.core.replay",
        old="    where.owed = True\n    if isinstance(where, Orphan):",
        new="    where.owed, where.effect = True, False\n    if isinstance(where, Orphan):",
    ),
    Mutant(
        name="undone_is_not_written_down",
        breaks="after a crash a booking that was cancelled is cancelled again",
        module="exoflow.core.transitions",
        old="    state.records.append(journal.EffectUndone(task=task.id, attempt=task.attempt))\n",
        new="",
    ),
    Mutant(
        name="effect_forgotten_when_saved",
        breaks="after a crash nobody knows that a booking whose output is saved may have to be cancelled",
        module="exoflow.core.replay",
        old="orphan.effect = where.effect and where.kind is Kind.UNDOABLE",
        new="orphan.effect = False",
    ),
    Mutant(
        name="made_again_without_undoing",
        breaks="a booking whose output was lost is made a second time, and the first one stands",
        module="exoflow.core.readiness",
        old="if task.effect:  # of an earlier attempt",
        new="if False:  # of an earlier attempt",
    ),
    Mutant(
        name="timeout_abandons_what_may_act",
        breaks="after a timeout the next attempt starts while the old one may still book",
        module="exoflow.core.transitions",
        old="        if task.effect:\n            state.move(task, Phase.STOPPING)\n        else:",
        new="        if True:",
    ),
    Mutant(
        name="doubt_is_denied",
        breaks="a transfer that nobody knows about is made again without a question",
        module="exoflow.core.readiness",
        old="            _doubt(state, task)\n",
        new="            task.effect = False\n            demand.wait_again(state, task)\n",
    ),
    # --- memory, demand, ending --------------------------------------------------------------------------------------------------------
    Mutant(
        name="released_at_the_first_consumer",
        breaks="an output leaves memory while others have not read it yet",
        module="exoflow.core.demand",
        old="if task.present and task.claims == 0 and",
        new="if task.present and",
    ),
    Mutant(
        name="lost_output_is_not_made_again",
        breaks="a task waits for ever for an output that a dead worker held",
        module="exoflow.core.demand",
        old="if needed and task.saving",
        new="if False and task.saving",
    ),
    Mutant(
        name="saga_undone_forwards",
        breaks="when a workflow is rolled back, the first step is undone first",
        module="exoflow.core.ending",
        old="for task in reversed(upstream_first(state))",
        new="for task in upstream_first(state)",
    ),
)
