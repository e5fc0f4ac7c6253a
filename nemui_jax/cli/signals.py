"""Handling of SIGINT (Ctrl-C) and SIGTERM: a command ends within seconds, whatever it is doing.

By default a signal raises Stopped in the main thread, repeatedly, in case a library catches it, but never during an
import, because C++ code that is being initialised aborts the process at a Python exception. It does not raise in a
command that calls `should_stop` inside `soft`: such a command stops by itself when the answer is True, and takes the
time that it needs to save. If the main thread does not return, for example from a long compilation, the process exits
by force; files are written atomically, so nothing that was saved is damaged.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from types import FrameType

LEAVE_SECONDS = 8.0  # until the process exits by force
AGAIN_SECONDS = 2.0  # between exceptions, time for cleaning up
POLL_SECONDS = 0.25  # between attempts to raise
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop."""


class Policy:
    """The signals received, and whether a new one raises."""

    def __init__(self, last: bool = False) -> None:
        self.last = last
        self.received: list[int] = []
        self.offered = False  # inside `soft`
        self.soft = False  # the command has called `should_stop`
        self.stopping = threading.Event()  # the command is stopping by itself
        self.acted_at = -AGAIN_SECONDS

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of signals."""
        self.received.append(number)
        waits = self.soft and not self.stopping.is_set()
        if not waits and not _importing(frame) and time.monotonic() - self.acted_at > AGAIN_SECONDS:
            self.acted_at = time.monotonic()
            if self.last:
                logging.disable()  # libraries log errors that the interruption causes
            raise Stopped

    def should_stop(self) -> bool:
        """Whether a signal was received; the command then has time to save, unless another one comes."""
        self.soft = self.offered
        if self.received and not self.stopping.is_set():
            self.acted_at = time.monotonic()
            self.stopping.set()
        return bool(self.received)


_policy: ContextVar[Policy | None] = ContextVar("policy", default=None)


@contextlib.contextmanager
def handled(last: bool = False) -> Iterator[list[int]]:
    """Handles signals in its context, in the main thread only; it yields the list of those received.

    With `last` the process is about to exit: later signals are ignored, and nothing is logged once one was received.
    """
    policy = Policy(last)
    if threading.current_thread() is not threading.main_thread():
        yield policy.received
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # as set_wakeup_fd wants it
    handlers = [signal.signal(number, policy.handle) for number in SIGNALS]
    hook, thread_hook, token = sys.unraisablehook, threading.excepthook, _policy.set(policy)
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    sys.unraisablehook = lambda what: None if what.exc_type is Stopped or (last and policy.received) else hook(what)
    # Threads of process pools fail when their processes are gone.
    threading.excepthook = lambda what: None if policy.received else thread_hook(what)
    threading.Thread(target=_watch, args=(reading, policy.stopping), daemon=True).start()
    try:
        yield policy.received
    finally:
        policy.stopping.set()
        _policy.reset(token)
        signal.set_wakeup_fd(wakeup)
        os.close(writing)
        for number, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(number, signal.SIG_IGN if last else handler)
        if not (last and policy.received):
            sys.unraisablehook, threading.excepthook = hook, thread_hook


@contextlib.contextmanager
def soft() -> Iterator[Policy]:
    """In its context signals no longer raise once `should_stop` of the yielded policy has been called."""
    policy = _policy.get() or Policy()
    policy.offered = True
    try:
        yield policy
    finally:
        policy.offered = policy.soft = False


def _importing(frame: FrameType | None) -> bool:
    """Whether a frame runs inside an import."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _leave(number: int) -> None:
    shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides the cursor
    os.write(2, f"{shown}nemui: stopped\n".encode())
    os._exit(128 + number)


def _watch(reading: int, stopping: threading.Event) -> None:
    """Waits for a signal and sends it to the main thread until it is handled, as C code there may delay that."""
    with open(reading, "rb", buffering=0) as pipe:
        number = next((byte[0] for byte in iter(lambda: pipe.read(1), b"") if byte[0] in SIGNALS), None)
        if number is None:
            return
        for _ in range(int(LEAVE_SECONDS / POLL_SECONDS)):
            if stopping.wait(POLL_SECONDS):
                return
            signal.pthread_kill(threading.main_thread().ident or 0, number)
    _leave(number)
