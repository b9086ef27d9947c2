"""Bugs of ``store`` and ``executors``: what is kept is not, or what runs is not what was said."""

from __future__ import annotations

from exoflow.testing.mutants.mutant import Mutant

_STORES = "tests/conformance/test_stores.py"
_EXECUTORS = "tests/conformance/test_executors.py -k not Process"

KEEPING = (
    # --- fences and journals -------------------------------------------------------------------------------------------------------
    Mutant(
        name="memory_commit_without_fence",
        breaks="an engine that lost a workflow can still write to it",
        module="exoflow.store.memory",
        old='        elif workflow.head.epoch != write.epoch:\n            return "fenced"\n',
        new="",
        ring="suites",
        suite=_STORES,
    ),
    Mutant(
        name="sqlite_commit_without_fence",
        breaks="an engine that lost a workflow can still write to it, in SQLite",
        module="exoflow.store.sqlite",
        old='        elif workflow.head.epoch != write.epoch:\n            return "fenced"\n',
        new="",
        ring="suites",
        suite=_STORES,
    ),
    Mutant(
        name="sqlite_claim_without_fence",
        breaks="two engines take up the same workflow, and both are told that it is theirs",
        module="exoflow.store.sqlite",
        old="            if workflow is None or workflow.head.epoch != epoch:\n                return None\n",
        new="            if workflow is None:\n                return None\n",
        ring="suites",
        suite=_STORES,
    ),
    Mutant(
        name="name_taken_twice",
        breaks="a second submission under a name that is taken replaces the first",
        module="exoflow.store.memory",
        old='                return "exists"\n',
        new='                workflow.head = write.head\n                return "exists"\n',
        ring="suites",
        suite=_STORES,
    ),
    # --- large outputs ---------------------------------------------------------------------------------------------------------------
    Mutant(
        name="blob_is_not_pinned",
        breaks="a collection takes a large output whose record is about to be written",
        module="exoflow.store.blobs",
        old="            self._pins.add(name, held)\n",
        new="            os.close(held)\n",
        ring="suites",
        suite=_STORES,
    ),
    Mutant(
        name="memory_blob_is_not_pinned",
        breaks="a collection takes a large output whose record is about to be written, in memory",
        module="exoflow.store.memory",
        old=" and name not in self._pins]",
        new="]",
        ring="suites",
        suite=_STORES,
    ),
    Mutant(
        name="shared_blob_is_deleted",
        breaks="deleting a workflow takes a large output that another one shares",
        module="exoflow.store.sqlite",
        old="        return [name for (name,) in self._read(_READ_NAMED, _json(list(blobs)).decode())]\n",
        new="        return []\n",
        ring="suites",
        suite=_STORES,
    ),
    # --- names that come again ---------------------------------------------------------------------------------------------------------
    Mutant(
        name="epochs_come_again",
        breaks="whoever was late for a deleted workflow takes the next one of its name",
        module="exoflow.runtime.ownership",
        old="    return (birth << _LIFE_BITS) + 1\n",
        new="    return 1 + 0 * birth\n",
        ring="suites",
        suite="tests/api/test_rebirth.py",
    ),
    Mutant(
        name="keys_come_again",
        breaks="a payment made for a deleted workflow counts for the next one of its name",
        module="exoflow.worker.context",
        old="\\0{self.birth}\\0",
        new="\\0",
        ring="suites",
        suite="tests/api/test_rebirth.py",
    ),
    # --- power -----------------------------------------------------------------------------------------------------------------------
    Mutant(
        name="blob_is_not_flushed",
        breaks="a large output is lost by a power failure although its record is there",
        module="exoflow.store.blobs",
        old="self._flushing(lambda: self._files.flush(held), tolerant=True)",
        new="pass",
        ring="power",
    ),
    Mutant(
        name="name_of_a_blob_is_not_flushed",
        breaks="a power failure takes the name of a large output although its record is there",
        module="exoflow.store.blobs",
        old="self._flushing(lambda: self._files.flush_folder(target.parent))",
        new="pass",
        ring="power",
    ),
    Mutant(
        name="folder_of_a_blob_is_not_flushed",
        breaks="a power failure takes the folder of a large output although its record is there",
        module="exoflow.store.blobs",
        old="self._flushing(lambda: self._files.flush_folder(self.directory))",
        new="pass",
        ring="power",
    ),
    Mutant(
        name="sqlite_does_not_flush",
        breaks="a power failure takes what the store has acknowledged",
        module="exoflow.store.sqlite_file",
        old="        _connections[db] = _identity(path.stat())\n",
        new='        db.pragma("synchronous", "NORMAL")\n        _connections[db] = _identity(path.stat())\n',
        ring="power",
    ),
    # --- executors -------------------------------------------------------------------------------------------------------------------
)
