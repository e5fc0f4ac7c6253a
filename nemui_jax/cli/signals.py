"""What SIGINT (Ctrl-C) and SIGTERM do: they end a command within seconds, whatever it is at.

By default a signal raises Stopped in the main thread, again and again in case a library swallows it, but never within
an import: C++ code that is initialised there aborts the process at a Python exception. It does not raise in a command
that asks `should_stop`, inside `soft`: this stops by itself when the answer is True, and takes the time that it needs
to save. What does not leave, such as a long compilation, is left by force: files appear whole or not at all, so nothing
that was saved is harmed.
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

LEAVE_SECONDS = 8.0  # until a process is left by force
AGAIN_SECONDS = 2.0  # from one raising to the next, so that what is cleaned up meanwhile can be
POLL_SECONDS = 0.25  # from one look at whether it can be raised to the next
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop."""


class Policy:
    """What becomes of signals, and those that came."""

    def __init__(self, last: bool = False) -> None:
        self.last = last
        self.received: list[int] = []
        self.offered = False  # to a command that may ask whether it should stop
        self.soft = False  # it has asked
        self.heard = threading.Event()  # the command is leaving by itself
        self.acted_at = -AGAIN_SECONDS

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of signals."""
        self.received.append(number)
        waits = self.soft and not self.heard.is_set()
        if not waits and not _importing(frame) and time.monotonic() - self.acted_at > AGAIN_SECONDS:
            self.acted_at = time.monotonic()
            if self.last:
                logging.disable()  # libraries log what an interruption leaves undone
            raise Stopped

    def should_stop(self) -> bool:
        """Whether a signal came; the command is then given the time to save, unless another one comes."""
        self.soft = self.offered
        if self.received and not self.heard.is_set():
            self.acted_at = time.monotonic()
            self.heard.set()
        return bool(self.received)


_policy: ContextVar[Policy | None] = ContextVar("policy", default=None)


@contextlib.contextmanager
def handled(last: bool = False) -> Iterator[list[int]]:
    """Handles signals while it lasts; its list then holds those that came. Only the main thread can.

    With `last` the process is about to end: signals after this are too late to matter, and after one nothing is logged.
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
    sys.unraisablehook = lambda what: None if what.exc_type is Stopped else hook(what)
    # of pools whose processes are gone
    threading.excepthook = lambda what: None if policy.received else thread_hook(what)
    threading.Thread(target=_watch, args=(reading, policy.heard), daemon=True).start()
    try:
        yield policy.received
    finally:
        policy.heard.set()
        _policy.reset(token)
        signal.set_wakeup_fd(wakeup)
        os.close(writing)
        sys.unraisablehook = hook
        for number, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(number, signal.SIG_IGN if last else handler)
        if not (last and policy.received):
            threading.excepthook = thread_hook


@contextlib.contextmanager
def soft() -> Iterator[Policy]:
    """While it lasts signals do not raise from the first time on that `should_stop` of what it yields is asked."""
    policy = _policy.get() or Policy()
    policy.offered = True
    try:
        yield policy
    finally:
        policy.offered = policy.soft = False


def _importing(frame: FrameType | None) -> bool:
    """Whether a frame is below an import."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _leave(number: int) -> None:
    shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides the cursor
    os.write(2, f"{shown}nemui: stopped\n".encode())
    os._exit(128 + number)


def _watch(reading: int, heard: threading.Event) -> None:
    """Waits for a signal, which C code in the main thread may hide from Python, and sees to it that it is handled."""
    with open(reading, "rb", buffering=0) as pipe:
        number = next((byte[0] for byte in iter(lambda: pipe.read(1), b"") if byte[0] in SIGNALS), None)
        if number is None:
            return
        for _ in range(int(LEAVE_SECONDS / POLL_SECONDS)):
            if heard.wait(POLL_SECONDS):
                return
            signal.pthread_kill(threading.main_thread().ident or 0, number)
    _leave(number)
