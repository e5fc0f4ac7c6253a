"""Starting and stopping the studio's server, on the loopback interface only."""

import functools
import gc
import logging
import os
import signal
import socket
import threading
import time
import webbrowser
from pathlib import Path
from typing import Any

import uvicorn

from nemui_jax import shell
from nemui_jax.errors import StudioError
from nemui_jax.studio.guard import Http
from nemui_jax.studio.routes import MESSAGE_BYTES, app
from nemui_jax.studio.state import LONG, Studio

HOST = "127.0.0.1"


class Server(uvicorn.Server):
    """A uvicorn server that stops at once on a signal."""

    def __init__(self, config: uvicorn.Config, studio: Studio):
        super().__init__(config)
        self.studio = studio

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.studio.stopping.set()
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # closed connections are not errors now
        self.force_exit = True
        super().handle_exit(sig, frame)


def server(studio: Studio, port: int) -> tuple[Server, socket.socket]:
    """A server and its listening socket; port 0 chooses a free port. StudioError if the port cannot be used."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(128)  # from now on a browser can connect, and waits
    except OSError as error:
        listening.close()
        raise StudioError(f"port {port} cannot be used ({error.strerror}); choose another with --port") from error
    config = uvicorn.Config(
        app(studio, listening.getsockname()[1]),
        http=Http,
        ws="websockets-sansio",
        ws_max_size=MESSAGE_BYTES,
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    return Server(config, studio), listening


def serve(run: Path, port: int = 8765, open_browser: bool = True) -> None:
    """Serves the studio of a run on the loopback interface until interrupted (KeyboardInterrupt)."""
    studio = Studio(run)
    ready, listening = server(studio, port)
    began = time.monotonic()
    studio.warm()
    gc.collect()
    gc.freeze()  # or a collection while the point is dragged would look at all that was imported: 0.1 s
    url = f"http://{HOST}:{listening.getsockname()[1]}/"
    count = len(studio.entries)
    print(f"{count} songs, ready in {time.monotonic() - began:.1f} s: {url} (Ctrl-C to stop)", flush=True)
    if open_browser:
        threading.Thread(target=functools.partial(webbrowser.open, url), daemon=True).start()
    try:
        ready.run(sockets=[listening])
    finally:
        if studio.unkept:
            add = shell.command("add", "--file", "FILE.mid", "--run", run)
            print(f"Gone, as they were not kept: {', '.join(studio.unkept)}. To add them to the run: {add}", flush=True)
        if any(thread.name == LONG for thread in threading.enumerate()):  # Python would wait for the thread
            os._exit(128 + signal.SIGINT)
    if studio.stopping.is_set():  # uvicorn raises the signal again, which is sometimes lost
        raise KeyboardInterrupt
