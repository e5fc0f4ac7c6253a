"""Leaving when told to: SIGINT (Ctrl-C) and SIGTERM end a command within seconds, whatever it is doing.

A signal raises Stopped in the main thread, again and again should a library swallow it. What does not leave by itself,
such as a long compilation, is left by force: files appear whole or not at all, so nothing that was saved is harmed.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

LEAVE_SECONDS = 8.0  # until a process is left by force
AGAIN_SECONDS = 2.0  # from one raising to the next
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The process was told to stop."""


@contextlib.contextmanager
def handled(last: bool = False) -> Iterator[list[int]]:
    """Heeds signals while it lasts; its list then holds those that came. Only the main thread can.

    With `last` the process is about to end: signals after this are too late to matter, and an end after one is quick.
    """
    told: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield told
        return

    def handle(number: int, _: object) -> None:
        told.append(number)
        raise Stopped

    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # as set_wakeup_fd wants it
    done = threading.Event()
    handlers = [signal.signal(number, handle) for number in SIGNALS]
    hook, thread_hook = sys.unraisablehook, threading.excepthook
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    sys.unraisablehook = lambda what: None if what.exc_type is Stopped else hook(what)
    threading.excepthook = lambda what: None if told else thread_hook(what)  # of pools whose processes are gone
    threading.Thread(target=_watch, args=(reading, done), daemon=True).start()
    try:
        yield told
    finally:
        done.set()
        signal.set_wakeup_fd(wakeup)
        os.close(writing)
        sys.unraisablehook = hook
        if not (last and told):
            threading.excepthook = thread_hook
        for number, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(number, signal.SIG_IGN if last else handler)
        if last:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()  # which leaving by force would not
        if last and told:
            timer = threading.Timer(AGAIN_SECONDS, os._exit, [128 + told[0]])
            timer.daemon = True
            timer.start()


def _leave(number: int) -> None:
    shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides the cursor
    os.write(2, f"{shown}nemui: stopped\n".encode())
    os._exit(128 + number)


def _watch(reading: int, done: threading.Event) -> None:
    """Waits for a signal, which C code in the main thread may hide from Python, and sees to it that it is heeded."""
    with open(reading, "rb", buffering=0) as pipe:
        number = next((byte[0] for byte in iter(lambda: pipe.read(1), b"") if byte[0] in SIGNALS), None)
        if number is None:
            return
        for _ in range(int(LEAVE_SECONDS / AGAIN_SECONDS)):
            if done.wait(AGAIN_SECONDS):
                return
            signal.pthread_kill(threading.main_thread().ident or 0, number)
    _leave(number)
