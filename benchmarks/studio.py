"""The studio in a real browser: first sound, a drag's new roll, late notes, and a dropped song until it is learned.

    python benchmarks/studio.py --run runs/default [--songs 2,3] [--drop FILE] [--picture FILE]

Chromium opens the page of a real server and presses play at once. The first sound is timed from the opening of the page
until an AnalyserNode detects it. Then the point is dragged for `--drag` seconds about two songs, by default those that
the page starts with, bands where the run has two, while the music plays; each change is timed from the pointer's move
until the new roll is first drawn. A note is late if it was passed to the sound card after its time. As times depend on
what else the machine does, the processor time of the server, and of the page's main thread, is given for each change
too; both play and animate meanwhile. With `--drop` a file is dropped on the page of a copy of the run while it plays.
`--picture` takes pictures of the page. Needs the extra studio, playwright and Debian's chromium (or CHROMIUM), and for
processor times Linux.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np
import report

LEVEL = """() => {
  const wave = new Float32Array(2048);
  globalThis.studio?.voice.analyser?.getFloatTimeDomainData(wave);
  return Math.max(...wave.map(Math.abs));
}"""
LISTEN = f"""() => {{
  const heard = () => {{
    if (({LEVEL})() > 0.001) globalThis.firstSound = performance.now();
    else setTimeout(heard, 5);
  }};
  const press = () => {{
    const play = document.getElementById("play");
    if (globalThis.studio && play && !play.disabled) {{ play.click(); heard(); }} else setTimeout(press, 5);
  }};
  press();
}}"""
SOUND = "() => globalThis.firstSound / 1000"
SIZE = """() => [...performance.getEntriesByType("resource"), ...performance.getEntriesByType("navigation")]
  .filter((one) => !one.name.includes("/songs")).reduce((sum, one) => sum + one.encodedBodySize, 0)"""
DROP = """([name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""
GUEST = "[...studio.guests.known.values()][0]"
FLAGS = "--no-sandbox --disable-gpu --disable-background-networking --autoplay-policy=no-user-gesture-required"
WHOLE = "() => !!globalThis.studio && studio.music.blocks.length > 1 && [...studio.music.blocks].every(Boolean)"


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument(
        "--run", type=Path, metavar="DIR", help="a trained run (default: one trained on the built-in tunes)"
    )
    parser.add_argument("--songs", metavar="A,B", help="songs to drag between, by their indices")
    parser.add_argument("--length", type=float, default=300.0, help="seconds of the mix (default: 300)")
    parser.add_argument("--drag", type=float, default=30.0, help="seconds of dragging (default: 30)")
    parser.add_argument("--opens", type=int, default=5, help="times that the page is opened (default: 5)")
    parser.add_argument("--drop", type=Path, metavar="FILE", help="a .mid file that the run does not have")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="a .png; two are written, -dark and -light")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = shutil.copytree(args.run, Path(folder) / args.run.name) if args.run else train(Path(folder))
        command = [sys.executable, "run.py", "studio", "--run", str(run), "--port", "0", "--no-browser"]
        server = subprocess.Popen(command, cwd=report.ROOT, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        line = server.stdout.readline()
        address = re.search(r"http://\S+", line)
        assert address, line
        try:
            found = measure(address[0], server.pid, args)
        finally:
            began = time.monotonic()
            server.send_signal(signal.SIGINT)
            server.wait(30)
        found["seconds to leave on Ctrl-C"] = time.monotonic() - began
    report.show("the studio", ["", ""], list(found.items()))
    report.write(args, found)


def train(folder: Path) -> Path:
    """A run trained on the built-in tunes."""
    with report.songs(None) as songs:
        command = [sys.executable, "run.py", "train", "--dir", str(songs), "--run", str(folder / "run"), "--quiet"]
        subprocess.run(command, cwd=report.ROOT, check=True)
    return folder / "run"


def measure(address: str, server: int, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of the page at the address of a server, which is given by the number of its process."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    requests: list[str] = []
    state = {"seconds": f"{args.length:g}"}
    if args.songs:
        state["mix"] = ",".join(f"{song}:0.5" for song in args.songs.split(","))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())

        def open_page() -> Any:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.on("request", lambda request: requests.append(request.url) and None)
            page.add_init_script(f"({LISTEN})()")
            page.goto(f"{address}#{urllib.parse.urlencode(state, safe=':,')}")
            page.wait_for_function("() => globalThis.firstSound", timeout=20_000)
            return page

        sounds = []
        for _ in range(args.opens - 1):
            page = open_page()
            sounds.append(page.evaluate(SOUND))
            page.close()
        page = open_page()
        sounds.append(page.evaluate(SOUND))
        page.wait_for_function(WHOLE, timeout=60_000)
        found = drag(page, server, args.drag) | {"page, kB": page.evaluate(SIZE) / 1000}
        if args.drop:
            found |= drop(page, args.drop)
        page.close()
        if args.picture:
            take_pictures(browser, address, args.picture)
        browser.close()
    return {
        "first sound, s (median)": float(np.median(sounds)),
        "first sound, s (each opening)": " ".join(f"{sound:.2f}" for sound in sounds),
        **found,
        "requests elsewhere": sum(not url.startswith((address, "blob:")) for url in requests),
    }


def drag(page: Any, server: int, seconds: float) -> dict[str, Any]:
    """Drags the point about where it stands: times from a move to a changed roll, and numbers of notes and parts."""
    page.evaluate("() => { studio.stats.changes.length = 0; }")
    before = page.evaluate("() => ({...studio.voice.stats})")
    inspector = page.context.new_cdp_session(page)
    inspector.send("Performance.enable", {"timeDomain": "threadTicks"})
    spent = processor_seconds(inspector, server)
    pad, point = page.locator("#pad").bounding_box(), page.locator(".point").bounding_box()
    centre = (point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    page.mouse.move(*centre)
    page.mouse.down()
    whole = page.evaluate("() => studio.music.order.length")
    until, angle, parts = time.monotonic() + seconds, 0.0, []
    while time.monotonic() < until:
        angle += 0.11
        x, y = 0.12 * np.cos(angle) * np.cos(angle / 7), 0.12 * np.sin(angle)
        page.mouse.move(centre[0] + x * pad["width"], centre[1] + y * pad["height"])
        page.wait_for_timeout(30)
        parts.append(page.evaluate("() => studio.music.order.length"))
    page.mouse.up()
    spent = 1000 * (processor_seconds(inspector, server) - spent)
    changes = np.array(page.evaluate("() => studio.stats.changes"))
    after = page.evaluate("() => ({...studio.voice.stats})")
    return {
        "drag to changed roll, ms (median)": float(np.median(changes)),
        "drag to changed roll, ms (95th percentile)": float(np.quantile(changes, 0.95)),
        "server, ms of processor time for each change": spent[0] / len(changes),
        "page, ms of scripts for each change": spent[1] / len(changes),
        "page, ms of its main thread for each change": spent[2] / len(changes),
        "load average": os.getloadavg()[0],
        "changes while dragging": len(changes),
        "parts of the mix, before it is dragged": whole,
        "parts in what comes first while dragging (median)": float(np.median(parts)),
        "notes played while dragging": after["notes"] - before["notes"],
        "late notes": after["late"] - before["late"],
    }


def processor_seconds(inspector: Any, server: int) -> np.ndarray:
    """Seconds that the server has used, the page's scripts, and all that the page's main thread does."""
    fields = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # in the program and in the kernel
    metrics = {one["name"]: one["value"] for one in inspector.send("Performance.getMetrics")["metrics"]}
    return np.array([ticks / os.sysconf("SC_CLK_TCK"), metrics["ScriptDuration"], metrics["TaskDuration"]])


def drop(page: Any, path: Path) -> dict[str, Any]:
    """Drops a file while the page plays; seconds until it is heard, and until it is learned."""
    late, began = page.evaluate("() => studio.voice.stats.late"), time.monotonic()
    page.evaluate(DROP, [path.name, list(path.read_bytes())])
    page.wait_for_function(f"() => ({GUEST})?.song", timeout=120_000)
    rough = time.monotonic() - began, page.evaluate(f"() => ({GUEST}).note_f1")
    page.wait_for_function(f"() => !({GUEST}).work", timeout=300_000)
    return {
        "dropped song heard, s": rough[0],
        "its note F1 then": rough[1],
        "dropped song learned, s": time.monotonic() - began,
        "its note F1": page.evaluate(f"() => ({GUEST}).note_f1"),
        "late notes meanwhile": page.evaluate("() => studio.voice.stats.late") - late,
        "still playing": page.evaluate("() => studio.player.playing"),
    }


def take_pictures(browser: Any, address: str, path: Path) -> None:
    """Pictures of the page as it opens, half a minute into the music."""
    for scheme in ("dark", "light"):
        page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
        page.goto(address)
        page.wait_for_function(WHOLE, timeout=60_000)
        page.evaluate("() => studio.player.seek(32)")
        page.wait_for_timeout(500)
        page.screenshot(path=path.with_stem(f"{path.stem}-{scheme}"))
        page.close()


if __name__ == "__main__":
    main()
