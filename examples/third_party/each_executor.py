"""An executor of another package: a thread for each call. docs/writing-an-executor.md explains it."""

import threading

from exoflow.errors import ClosedError, ExecutorUnavailable
from exoflow.worker import task_runner


class EachExecutor:
    """A thread for each call."""

    name = "each"
    can_kill = False  # nothing ends a thread that does not want to end
    is_elsewhere = False  # functions run in this process
    slots = 64

    def __init__(self):
        self._lock = threading.Lock()
        self._threads = {}
        self._closed = False

    def submit(self, call, done):
        thread = threading.Thread(target=self._run, args=(call, done), name=f"each-{call.key}", daemon=True)
        with self._lock:  # so that close() finds no thread that has not begun
            if self._closed:
                raise ClosedError(what="executor 'each'")
            try:
                thread.start()
            except RuntimeError as error:  # the system gives no more threads
                raise ExecutorUnavailable(executor=self.name, reason=str(error)) from error
            self._threads[call.key] = thread

    def _run(self, call, done):
        done(task_runner.run(call))  # never raises: whatever the function does is an outcome
        with self._lock:  # not before the answer, which close() waits for
            del self._threads[call.key]

    def stop(self, key):
        """A thread cannot be ended; it answers when its function does."""

    def close(self):
        with self._lock:
            self._closed = True
        for thread in list(self._threads.values()):
            if thread is not threading.current_thread():
                thread.join()
