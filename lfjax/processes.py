"""Several processes: which one this is, how they agree, and how they end together.

Process 0 decides and the others follow. What they tell each other goes through the key-value store
of jax's coordination service, which lives beside process 0, and never through the devices: there a
process may wait for hours, where a collective would time out. All processes call the functions here
in the same order.
"""

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NoReturn, TypeVar

from lfjax.errors import UserError

T = TypeVar("T")

STOP, END = "lfjax/stop", "lfjax/end"  # a signal that all obey; the failure that ends all
POLL_MS = 500
GRACE_SECONDS = 2.0  # in which the others hear of a failure, before its process is gone

_NUMBER = itertools.count()  # of what is agreed on: the same on every process
_ALONE = ContextVar("alone", default=False)  # inside of `decide`, nobody else listens


def index() -> int:
    """Number of this process, from 0. Starts no device."""
    return _jax().process_id


def count() -> int:
    """How many processes take part in what is being done. Starts no device."""
    return 1 if _ALONE.get() else _jax().num_processes


def decide(find: Callable[..., T], *args) -> T:
    """`find(*args)`, a JSON value, as process 0 finds it on its own. The others wait for it,
    however long it takes; where process 0 ends instead (SystemExit), they end too."""
    if count() == 1:
        return find(*args)
    key = _new_key()
    if index():
        said = _wait_for(key)
        if "exit" in said:
            raise SystemExit(said["exit"])
        return said["found"]
    token = _ALONE.set(True)
    try:
        said = {"found": find(*args)}
    except SystemExit as stop:
        _put(key, {"exit": stop.code})
        raise
    finally:
        _ALONE.reset(token)
    _put(key, said)
    return said["found"]


def gather(value: T) -> list[T]:
    """The JSON values of all processes, in their order, on every process; each waits for all."""
    if count() == 1:
        return [value]
    key = _new_key()
    _put(f"{key}/{index()}", {"value": value})
    return [_wait_for(f"{key}/{i}")["value"] for i in range(count())]


def check_same(find: Callable[[], str], what: str) -> None:
    """Raises: UserError on a process where `find()` is not what it is on process 0; `what` it says
    something about is not the same there. Alone, nothing is found out."""
    if count() == 1:
        return
    value = find()
    if decide(str, value) != value:
        raise UserError(
            f"{what}: not the same here as on process 0; all processes must see the same files."
        )


class StopSignal:
    """While entered, SIGTERM and SIGINT ask the loop to save and stop. A second SIGINT interrupts
    at once; a second SIGTERM does not: those who manage clusters send several.

    Attributes:
      asked: the number of the signal that this process received; 0 for none.
      obeyed: that of the signal, received here or elsewhere, because of which the loop was told to
        stop; 0 for none.
    """

    def __init__(self):
        self.asked, self.obeyed, self._key = 0, 0, ""

    def __enter__(self) -> "StopSignal":
        def ask(number, frame):
            if self.asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked = self.asked or number

        self.before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def anywhere(self) -> int:
        """The signal that this process or any other received; 0 for none."""
        self.obeyed = self._anywhere()
        return self.obeyed

    def _anywhere(self) -> int:
        if _jax().num_processes == 1:
            return self.asked
        if self.asked:
            _put(STOP, self.asked)
        return self.asked or _get(STOP) or 0

    def after(self, step: int, ahead: int = 2) -> int:
        """The signal because of which all processes stop after this step, the same answer on each
        of them; 0 to go on.

        Called after every step by all processes. Process 0 sets the step after which they stop,
        before any other one can have asked about it.

        Args:
          ahead: steps that another process can be ahead of process 0, and one more. Where each
            waits for the step before the last to end on all devices, as the training loop does, 2.
        """
        if count() == 1:
            return self.anywhere()
        self._key = self._key or _new_key()
        number, end = self._anywhere(), _get(self._key)
        if number and end is None and index() == 0:
            end = [step + ahead, number]
            _put(self._key, end)
        self.obeyed = end[1] if end and step >= end[0] else 0
        return self.obeyed


# --- failures ---------------------------------------------------------------------------------


def watch() -> None:
    """From now on, a failure of any process ends this one too, wherever it is waiting. (A process
    that is killed is missed by jax's own heartbeats, which end all others.)"""
    done = threading.Event()

    def look():
        while not done.is_set():
            failed = _get(END, wait_ms=POLL_MS)
            if failed is None:
                continue
            if index() == 0 and failed["process"]:
                _say(f"process {failed['process']}: {failed['message']}")
            time.sleep(GRACE_SECONDS if index() == 0 else 0)  # the store goes with process 0
            _leave(failed["status"])

    thread = threading.Thread(target=look, name="lfjax-watch", daemon=True)
    thread.start()

    def stop():
        done.set()
        thread.join()

    import atexit

    atexit.register(stop)  # runs before jax's own, which takes the connection away


def fail(status: int, message: str) -> NoReturn:
    """End this process because of an error, and all others with it. The message is printed once."""
    if _jax().num_processes == 1:
        _say(message)
        sys.exit(status)
    if index():  # process 0 may have made the same mistake; then it is the one that speaks
        time.sleep(GRACE_SECONDS)
    if _put(END, {"process": index(), "status": status, "message": message}):
        if index() == 0:
            _say(message)
    elif _get(END) is None:  # process 0 is gone, and nobody else will say it
        _say(f"process {index()}: {message}")
    time.sleep(2 * GRACE_SECONDS)  # the watch ends all, this one too
    _leave(status)


def fail_with_traceback(error: BaseException) -> NoReturn:
    """`fail` for what is no mistake of the user. Where another process failed first, what happens
    here is a consequence, and not told."""
    ended = _get(END) if count() > 1 else None
    if ended and ended["process"] != index():
        time.sleep(2 * GRACE_SECONDS)  # the watch ends this process, as the other one did
        _leave(ended["status"])
    sys.stderr.write("".join(traceback.format_exception(error)))
    fail(1, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def _say(message: str) -> None:
    print(f"lfjax: {message}", file=sys.stderr, flush=True)


def _leave(status: int) -> NoReturn:
    """Without the way out that waits for all others."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


# --- the store of the coordination service ----------------------------------------------------


def _jax():
    from jax._src import distributed  # the store has no public name

    return distributed.global_state


def _new_key() -> str:
    return f"lfjax/{next(_NUMBER)}"


def _put(key: str, value: Any) -> bool:
    """Whether it is there now by this call: the first value of a key stays."""
    import jax

    try:
        _jax().client.key_value_set(key, json.dumps(value))
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _get(key: str, *, wait_ms: int = 0) -> Any:
    """The value of a key; None where there is none, or none came in that time."""
    import jax

    client = _jax().client
    try:
        if wait_ms:
            return json.loads(client.blocking_key_value_get(key, wait_ms))
        return json.loads(client.key_value_try_get(key))
    except jax.errors.JaxRuntimeError:
        if wait_ms:
            time.sleep(0.05)  # it fails at once where the service is gone
        return None


def _wait_for(key: str) -> Any:
    """The value of a key, when it is there. A signal that comes meanwhile is told to all."""
    with StopSignal() as stop:
        while (value := _get(key, wait_ms=POLL_MS)) is None:
            stop.anywhere()
    return value
