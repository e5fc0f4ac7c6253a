"""The studio's page in real Chromium: hands, keys, links, files and sound. Nothing may leave the machine."""

import base64
import json
import os
import re
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import call

pytest.importorskip("starlette", reason="needs the extra studio")
pytest.importorskip("uvicorn", reason="needs the extra studio")
api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra test)")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if not CHROMIUM:
    pytest.skip("needs chromium: apt-get install chromium, or set CHROMIUM", allow_module_level=True)

from nemui_jax.evaluation import novelty  # noqa: E402
from nemui_jax.music import midi_reader, midi_writer  # noqa: E402
from nemui_jax.music.song import CONTROL, DRUM_CHANNEL, NOTE, PITCH_BEND, SUSTAIN, Part, Song  # noqa: E402
from nemui_jax.runs.run import read_run  # noqa: E402
from nemui_jax.studio import messages, server  # noqa: E402
from nemui_jax.studio.piece import BLOCK_SECONDS  # noqa: E402
from nemui_jax.studio.state import Studio  # noqa: E402
from nemui_jax.training import finetune  # noqa: E402

FLAGS = """
    --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync
    --disable-component-update --autoplay-policy=no-user-gesture-required
""".split()  # noqa: SIM905
LEVEL = """() => {
  const wave = new Float32Array(2048);
  studio.voice.analyser?.getFloatTimeDomainData(wave);
  return Math.max(...wave.map(Math.abs));
}"""
NOTES = "() => studio.music.blocks.flatMap((block) => block.notes.map((n) => [n.onset, n.pitch]))"
WHOLE = "() => !!globalThis.studio && studio.music.blocks.length > 1 && [...studio.music.blocks].every(Boolean)"


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory) -> Path:
    """A copy of the trained run, as songs may be added to it."""
    return shutil.copytree(trained.path, tmp_path_factory.mktemp("studio") / "run")


@pytest.fixture(scope="module", autouse=True)
def all_new() -> Iterator[None]:
    """No new song is too close to the songs: these last ten seconds, so that all are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(novelty, "COPY_LIKENESS", 1.0)
        yield


@pytest.fixture(scope="module")
def address(run) -> Iterator[str]:
    studio = Studio(run)
    ready, listening = server.server(studio, 0)
    studio.warm()
    thread = threading.Thread(target=ready.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    ready.handle_exit(signal.SIGINT, None)
    thread.join(10)
    listening.close()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address) -> Iterator:
    """A page that is open and has its music; errors in it and requests that leave the machine fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    wrong = []

    def check(route):
        if urlsplit(route.request.url).netloc == urlsplit(address).netloc:
            route.continue_()
        else:
            wrong.append(f"request to {route.request.url}")
            route.abort()

    context.route("**/*", check)
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.goto(address)
    until(page, WHOLE)
    yield page
    context.close()
    assert not wrong


def until(page, question: str, seconds: float = 10.0):
    """Waits for an answer that is true. (Playwright's own waiting needs eval, which the page forbids.)"""
    end = time.monotonic() + seconds
    while not (answer := page.evaluate(question)):
        assert time.monotonic() < end, question
        page.wait_for_timeout(20)
    return answer


def drag(page, selector: str, dx: float, dy: float, steps: int = 8) -> None:
    box = page.locator(selector).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx, y + dy, steps=steps)
    page.mouse.up()


@pytest.mark.alone
def test_a_drag_changes_roll_and_sound(page):
    before = page.evaluate(NOTES)
    page.click("#play")
    until(page, f"() => ({LEVEL})() > 0.001")
    picture = page.locator("#roll .notes").screenshot()
    drag(page, ".point", 150, -80)
    until(page, "() => studio.stats.changes.length > 1")
    until(page, WHOLE)
    assert page.evaluate(NOTES) != before
    assert page.locator("#roll .notes").screenshot() != picture
    started = page.evaluate("() => studio.voice.stats.notes")
    until(page, f"() => studio.voice.stats.notes > {started + 3} && ({LEVEL})() > 0.001")
    assert page.evaluate("() => studio.voice.stats.late") == 0
    page.click("#play")
    until(page, f"() => ({LEVEL})() < 0.001")


def test_every_anchor_alone_is_its_song(page):
    page.locator(".anchor").nth(1).click()
    until(page, "() => (studio.weightsAt(studio.state.at, studio.state.pad).get(1) ?? 0) === 1")
    assert page.locator("#command").text_content().split("--mix ")[1].startswith("1:1 ")
    assert "100 %" in page.locator(".point").get_attribute("aria-valuetext")


def test_a_link_restores_the_state(page, address):
    drag(page, ".point", -60, 70)
    drag(page, ".anchor >> nth=0", 40, 60)
    page.locator("#seconds").fill("20")
    page.locator("#seconds").press("Enter")
    page.locator("#vary").focus()
    page.keyboard.press("v")
    page.click("#copy-link")
    link = page.evaluate("() => navigator.clipboard.readText()")
    assert "#mix=" in link
    page.wait_for_timeout(400)  # the whole is asked for when the hand rests
    until(page, WHOLE)
    before, state = (
        page.evaluate(NOTES),
        "() => JSON.stringify([studio.state.pad, studio.state.noise, studio.state.seed])",
    )
    weights = page.locator(".point").get_attribute("aria-valuetext")
    kept = page.evaluate(state)
    page.goto("about:blank")
    page.goto(link)
    until(page, WHOLE)
    restored = page.locator(".point").get_attribute("aria-valuetext")
    assert np.allclose(_numbers(restored), _numbers(weights), atol=1)
    assert [round(x, 2) for x in _numbers(page.evaluate(state))] == [round(x, 2) for x in _numbers(kept)]
    assert abs(len(page.evaluate(NOTES)) - len(before)) <= 0.05 * len(before)


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]


def test_a_written_link_gives_exact_weights(page, address):
    page.goto("about:blank")
    page.goto(f"{address}#mix=0:0.25,2:0.75&seconds=12&key=D")
    until(page, WHOLE)
    assert page.locator("#weight-2").input_value() == "0.75"
    assert "--mix 0:0.25,2:0.75 --seconds 12 --key D" in page.locator("#command").text_content()


def test_a_link_that_was_cut_off_opens(page, address):
    page.goto("about:blank")
    page.goto(f"{address}#seconds=12&key=%E0%A4%A")
    until(page, WHOLE)
    assert page.locator("#seconds").input_value() == "12"


def test_a_server_that_is_gone_is_named_in_a_sentence(browser, address):
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    until(page, WHOLE)
    page.route("**/piece.mid", lambda route: route.abort("connectionrefused"))
    page.click("#take-mid")
    until(page, "() => document.getElementById('status').textContent.includes('start it again in the terminal')")
    context.close()


def test_a_download_is_the_music(page):
    with page.expect_download() as caught:
        page.click("#take-mid")
    song = midi_reader.read(caught.value.path())
    assert len(song.notes) == len(page.evaluate(NOTES))
    with page.expect_download() as caught:
        page.click("#take-wav")
    assert caught.value.path().read_bytes()[:4] == b"RIFF"


DROP = """(files) => {
  const data = new DataTransfer();
  for (const [name, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def upside_down(path: Path) -> list[int]:
    """The bytes of a song with its pitches mirrored: one that the run does not have."""
    song = midi_reader.read(path)
    for part in song.parts:
        part.notes["pitch"] = 130 - part.notes["pitch"]
    return list(midi_writer.encode(song))


@pytest.mark.alone
def test_dropped_files_are_taught_while_the_page_plays(page, songs_folder, run, monkeypatch):
    """Each becomes an anchor as soon as it plays; one is kept, and then the command names it by its index."""
    monkeypatch.setattr(finetune, "FINETUNE_UPDATES", 50)  # how well songs are kept, tests of `add` tell
    monkeypatch.setattr(finetune, "UPDATES_PER_ROW", 0.0)
    anchors = page.locator(".anchor").count()
    page.click("#play")
    until(page, f"() => ({LEVEL})() > 0.001")
    files = [["<img src=x>.mid", upside_down(songs_folder / "rubato.mid")]]
    files.append(["second.mid", upside_down(songs_folder / "b" / "repeats.mid")])
    page.evaluate(DROP, [*files, ["no.mid", [1, 2, 3]]])
    until(page, "() => document.getElementById('status').textContent.startsWith('no: ')")
    until(page, f"() => document.querySelectorAll('.anchor').length === {anchors + 2}", 60)
    done = "() => [...studio.guests.known.values()].filter(({ work, learned }) => !work && learned).length === 2"
    until(page, done, 90)
    assert page.evaluate("() => studio.voice.stats.late") == 0
    assert page.locator("#pad img").count() == 0
    assert "learned, " in page.locator("#guests li").first.text_content()
    page.locator("#guests .name").first.click()
    until(page, "() => document.getElementById('heard').textContent === '100 % <img src=x>'")
    assert "gone when the studio is stopped" in page.locator("#unkept").inner_text()
    assert "# after Keep: <img src=x>" in page.locator("#command").text_content()
    page.get_by_role("button", name="Keep <img src=x> in the run").click()
    until(page, "() => document.getElementById('status').textContent.endsWith('kept in the run')", 90)
    assert f"--mix {len(read_run(run).entries) - 1}:1 " in page.locator("#command").text_content()
    assert not page.get_by_role("button", name="Keep <img src=x> in the run").is_visible()
    other = page.context.new_page()
    other.goto(page.url.split("#")[0])
    until(other, WHOLE)
    assert other.evaluate("() => [...studio.music.parts].length > 0 && studio.state.weights.size") == 2
    assert other.locator("#heard").text_content() == page.evaluate(
        "() => studio.info.first.map((song) => `50 % ${studio.info.short(song)}`).join('   ·   ')"
    )
    assert other.locator("#guests li").count() == 2
    assert other.evaluate("() => studio.state.pad.some(({ song }) => studio.info.songs[song].in_run === null)") is False


def test_keys_alone_play_everything(page):
    page.locator(".point").focus()
    before = page.evaluate("() => ({...studio.state.at})")
    for key in ("ArrowLeft", "Shift+ArrowUp"):
        page.keyboard.press(key)
    after = page.evaluate("() => studio.state.at")
    assert after["x"] < before["x"]
    assert after["y"] < before["y"]
    page.keyboard.press("p")
    for _ in range(6):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("p")
    assert len(page.evaluate("() => studio.state.path")) == 2
    page.keyboard.press("Escape")
    assert page.evaluate("() => studio.state.path") is None
    page.keyboard.press("v")
    assert page.evaluate("() => studio.state.noise") > 0
    page.keyboard.press(" ")
    until(page, f"() => studio.player.playing && ({LEVEL})() > 0.001")
    page.locator("#roll .notes").focus()
    page.keyboard.press("End")
    page.keyboard.press("Home")
    page.keyboard.press("]")
    page.keyboard.press("l")
    assert page.evaluate("() => studio.player.position") < 2
    page.keyboard.press(" ")
    assert not page.evaluate("() => studio.player.playing")
    assert "of" in page.locator("#roll .notes").get_attribute("aria-valuetext")


def test_a_drawn_path_is_a_morph(page):
    box = page.locator("#pad").bounding_box()
    page.keyboard.press("d")
    page.mouse.move(box["x"] + 30, box["y"] + 30)
    page.mouse.down()
    for x, y in ((0.4, 0.8), (0.9, 0.2), (0.95, 0.9)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8)
    page.mouse.up()
    until(page, "() => !!studio.state.path")
    assert " to " in page.locator("#heard").text_content()


def test_what_was_can_be_put_back(page):
    """A random song is taken back, and made again; so is what was dragged."""
    before = page.locator("#heard").text_content()
    page.keyboard.press("r")
    until(page, "() => studio.state.random && !!studio.state.drawn")
    drawn = page.locator("#heard").text_content()
    assert "form and harmony of" in drawn
    assert "--random --seed" in page.locator("#command").text_content()
    assert page.locator("#sliders em").all_inner_texts()
    page.click("#undo")
    until(page, f"() => document.getElementById('heard').textContent === {json.dumps(before)}")
    drag(page, ".point", 90, 60)
    page.keyboard.press("Control+z")
    assert page.locator("#heard").text_content() == before
    page.keyboard.press("Control+Shift+z")
    assert page.locator("#heard").text_content() != before


def test_the_command_makes_the_same_notes(page, run, tmp_path):
    """On the command line, and in Python for what that has no words for."""
    states = [
        "Object.assign(studio.state, { weights: new Map([[0, 0.3], [2, 0.7]]) })",
        "Object.assign(studio.state, { factors: { harmony: 1, tempo: 0 }, key: 'Eb' })",
        "Object.assign(studio.state, { noise: 0.4, seed: 3, factors: { melody: 1 } })",
        "Object.assign(studio.state, { path: [{ x: 0.1, y: 0.2 }, { x: 0.5, y: 0.7 }, { x: 0.9, y: 0.4 }] })",
        "Object.assign(studio.state, { path: null, weights: new Map([[1, 1]]), factors: {} })",
        "Object.assign(studio.state, { noise: 0, random: true, seed: 7 })",
    ]
    page.locator("#seconds").fill("15")
    page.locator("#seconds").press("Enter")
    for number, state in enumerate(states):
        page.evaluate(f"() => {{ {state}; studio.pad.calls.change(); }}")
        if "random: true" in state:
            until(page, "() => !!studio.state.drawn")
        with page.expect_download() as caught:
            page.click("#take-mid")
        expected = midi_reader.read(caught.value.path()).notes
        found = midi_reader.read(run_command(page.locator("#command").text_content(), tmp_path / str(number))).notes
        assert len(expected) > 10
        for name in ("onset", "pitch", "velocity"):
            np.testing.assert_allclose(found[name], expected[name], atol=0.002, err_msg=state)


def run_command(command: str, folder: Path) -> Path:
    """Runs what the page shows, in this process and a folder; returns the .mid that it writes."""
    words = shlex.split(command, comments=True)
    folder.mkdir()
    if words[1] == "-c":
        exec(words[2].replace("piece.mid", str(folder / "piece.mid")), {})
    else:
        answer = call(*words[2:], "--out", folder / "piece.mid")
        assert answer.code == 0, answer.err
    return folder / "piece.mid"


def test_factors_come_from_one_song(page):
    page.get_by_label("Melody").select_option(label="rubato")
    assert "--melody 2" in page.locator("#command").text_content()
    page.get_by_label("Tempo").focus()
    page.keyboard.press("ArrowDown")
    assert "--tempo " in page.locator("#command").text_content()
    page.locator(".point").focus()
    page.keyboard.press("Escape")
    assert "--melody" not in page.locator("#command").text_content()
    assert page.get_by_label("Melody").input_value() == ""


def test_a_link_of_another_run_says_so(page, address):
    page.goto("about:blank")
    page.goto(f"{address}#mix=0:0.25,7:0.5,9:0.25&run=0123456789ab&names=0:rubato,7:repeats,9:gone%20song")
    until(page, WHOLE)
    text = page.locator("#status").text_content()
    assert "another run" in text
    assert "gone song is not here" in text
    assert [round(float(page.locator(f"#weight-{song}").input_value()), 2) for song in (1, 2)] == [0.67, 0.33]


def test_focus_stays_when_songs_are_taken_away(page):
    count = page.locator(".anchor").count()
    page.locator(".anchor").nth(0).focus()
    page.keyboard.press("Delete")
    assert page.locator(".anchor").count() == count - 1
    assert page.evaluate("() => document.activeElement.className") == "anchor"
    page.locator("#sliders button").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.closest('#sliders') !== null")


def test_a_piece_as_a_page_plays_from_disk(page, browser, tmp_path):
    """The file alone, opened from disk: it asks for nothing, and sounds."""
    with page.expect_download() as caught:
        page.click("#take-html")
    assert re.fullmatch(r"[\w -]+ 50 \+ [\w -]+ 50\.html", caught.value.suggested_filename)
    path = tmp_path / caught.value.suggested_filename
    caught.value.save_as(path)
    notes, command = len(page.evaluate(NOTES)), page.locator("#command").text_content()
    context = browser.new_context(offline=True)
    shared, wrong = context.new_page(), []
    shared.on("pageerror", lambda error: wrong.append(str(error)))
    shared.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    shared.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    shared.goto(path.as_uri())
    until(shared, "() => !!globalThis.shared")
    assert shared.evaluate("() => shared.music.blocks.flatMap((block) => block.notes).length") == notes
    assert shared.locator("#command").text_content() == command
    assert "50 %" in shared.locator("#about").text_content()
    shared.keyboard.press(" ")
    until(shared, f"() => ({LEVEL.replace('studio', 'shared')})() > 0.001")
    shared.keyboard.press(" ")
    context.close()
    assert not wrong


@pytest.mark.alone
def test_a_passage_is_looped_without_a_gap(page):
    page.locator("#roll .notes").focus()
    page.keyboard.press("Home")
    page.evaluate("() => { studio.player.loop = [0, 1.5]; }")
    page.keyboard.press(" ")
    start = until(page, f"() => ({LEVEL})() > 0.001 && studio.voice.now")
    until(page, f"() => studio.voice.now > {start} + 3.5")
    assert page.evaluate("() => studio.player.position") <= 1.6
    assert page.evaluate("() => studio.player.stats.waits") == 0
    assert page.evaluate("() => studio.voice.stats.late") == 0


def test_the_playhead_stays_inside_a_piece_that_becomes_shorter(page):
    page.locator("#seconds").fill("40")
    page.locator("#seconds").press("Enter")
    until(page, "() => studio.music.seconds > 39")
    until(page, WHOLE)
    page.evaluate("() => { studio.player.seek(31); }")
    page.click("#play")
    until(page, f"() => ({LEVEL})() > 0.001")
    page.locator(".anchor").nth(0).click()  # the chorale, of six seconds
    until(page, "() => studio.music.seconds < 7 && studio.player.cursor < 5 && studio.player.playing")
    until(page, f"() => ({LEVEL})() > 0.001")
    assert page.evaluate("() => studio.player.stats.waits") == 0


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 768), (390, 844)])
def test_every_size_and_theme(browser, address, width, height, scheme):
    """Nothing is cut off or covered, everything has a name, and what saves stays in view."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, has_touch=width < 500, color_scheme=scheme
    )
    page = context.new_page()
    page.goto(address)
    until(page, WHOLE)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert unnamed(page) == []
    names = page.evaluate(NAMES)
    assert len(names["labels"]) >= 2
    assert names["covered"] == []
    if width < 500:
        x, y = page.evaluate(FREE)
        page.touchscreen.tap(x, y)
        until(page, "() => studio.state.weights === null")
        at, box = page.evaluate("() => studio.state.at"), page.locator("#pad").bounding_box()
        assert at["x"] * box["width"] == pytest.approx(x - box["x"], abs=2)
    page.locator("#more summary").click()
    until(page, "() => document.querySelectorAll('#list li').length >= 3")
    take, side = (page.locator(name).bounding_box() for name in (".take", "#side"))
    assert take["y"] + take["height"] < side["y"] + side["height"]
    for name in ("#play", "#sliders", "#list", "#command"):  # wherever a small page is scrolled to
        page.locator(name).scroll_into_view_if_needed()
        assert page.evaluate(IN_VIEW) == ["MIDI", "WAV", "Page", "Link", "Command"]
    context.close()


IN_VIEW = """() => [...document.querySelectorAll(".take button")].filter((one) => {
  const box = one.getBoundingClientRect();
  return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2) === one && box.bottom <= innerHeight;
}).map((one) => one.textContent)"""
FREE = """() => { // a place on the pad where no song is
  const box = document.getElementById("pad").getBoundingClientRect();
  const free = ([x, y]) => document.elementFromPoint(x, y).className === "lines";
  const places = Array.from({ length: 64 }, (_, i) => [i % 8, i >> 3].map((step) => (step + 1) / 9));
  return places.map(([x, y]) => [box.x + x * box.width, box.y + y * box.height]).find(free);
}"""
CONTROLS = {"button", "slider", "combobox", "textbox", "searchbox", "spinbutton", "checkbox", "img", "progressbar"}


def unnamed(page) -> list[dict]:
    """What the browser tells assistive technology of controls without a name."""
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    found = [node for node in tree if not node["ignored"] and node["role"]["value"] in CONTROLS]
    assert len(found) > 20
    return [node for node in found if not node.get("name", {}).get("value", "").strip()]


NAMES = """() => {
  const labels = [...document.querySelectorAll(".labels span")];
  const boxes = labels.map((one) => [one.textContent, one.getBoundingClientRect()]);
  const covered = boxes.flatMap(([name, a], i) => boxes.slice(i + 1)
    .filter(([, b]) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
    .map(([other]) => [name, other]));
  const dots = [...document.querySelectorAll("#pad:not(.many) .anchor i")].map((one) => one.getBoundingClientRect());
  for (const [name, { left, right, top, bottom }] of boxes) for (const dot of dots) {
    const [x, y] = [(dot.left + dot.right) / 2, (dot.top + dot.bottom) / 2];
    if (left < x && x < right && top < y && y < bottom) covered.push([name, "a song"]);
  }
  return { labels: labels.map((one) => one.textContent), covered };
}"""


CROWDED = """async () => { // a song named between the point, other songs and the edge of a narrow pad
  const { around, placeLabels } = await import("/labels.js");
  const dots = [[256, 421, 12], [318, 393, 8], [256, 354, 8], [180, 406, 12], [223, 412, 24]];
  const obstacles = dots.map((dot) => around(...dot));
  const item = { x: 256, y: 421, radius: 12, widths: [100, 70, 64], must: true };
  const other = { x: 180, y: 406, radius: 12, widths: [100, 70, 64], must: true };
  const boxes = placeLabels([other, item], obstacles, { width: 370, height: 455 });
  const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const covered = boxes.map((box) => obstacles.filter((dot) => overlap(box, dot)).length);
  return { covered, apart: !overlap(...boxes), sizes: boxes.map((box) => box.size) };
}"""


def test_a_name_is_shorter_where_it_would_cover_a_song(page):
    found = page.evaluate(CROWDED)
    assert found["covered"] == [0, 0]
    assert found["apart"]
    assert found["sizes"][0] == 0 < found["sizes"][1]


def test_three_hundred_songs(browser, address):
    """All stand on the pad in small; those near the point are named, and any is found by its name."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    rng = np.random.default_rng(0)
    names = [f"Composer {number:03} Sonata with a rather long name, movement {number % 4 + 1}" for number in range(300)]

    def answer(route) -> None:
        data = route.fetch().json()
        song = {"seconds": 60, "key": "C"}
        places = rng.uniform(0.07, 0.93, (300, 2)).round(4).tolist()
        data["songs"] = [
            {**song, "index": i, "name": name, "place": places[i], "in_run": i} for i, name in enumerate(names)
        ]
        route.fulfill(json=data)

    page.route("**/songs", answer)
    _answer_with(page, BAND, 10.0)
    page.goto(address)
    until(page, WHOLE)
    assert page.locator(".anchor").count() == 300
    labels = page.evaluate(NAMES)
    assert 2 <= len(labels["labels"]) <= 8
    assert labels["covered"] == []
    assert all("…" in name and re.search(r"ent \d", name) for name in labels["labels"])
    page.locator("#more summary").click()
    page.locator("#find").fill("composer 12")
    marked = "() => [...studio.pad.anchors].filter(([, one]) => one.classList.contains('found')).map(([song]) => song)"
    assert page.evaluate(marked) == [number for number in range(300) if "12" in names[number][9:12]]
    found = page.evaluate(NAMES)
    assert sum("mposer" in name for name in found["labels"]) >= 5
    assert found["covered"] == []
    page.locator("#find").fill("composer 123")
    assert page.evaluate(marked) == [123]
    page.keyboard.press("Enter")
    assert page.locator("#heard").text_content() == f"100 % {names[123]}"
    page.get_by_role("button", name=f"Add {names[123]} to the mix").wait_for()
    page.locator("#find").fill("composer 200")
    page.get_by_role("button", name=f"Add {names[200]} to the mix").click()
    assert page.locator("#sliders li").count() == 2
    page.evaluate("() => studio.pad.move({ x: 0.3, y: 0.5 }, 0)")
    assert page.locator("#sliders li").count() <= 3
    page.locator("#more summary").click()
    until(page, f"() => !({marked})().length")
    context.close()


def make_part(program: int, rows: list[tuple], channel: int = 0, controls: list[tuple] | None = None) -> Part:
    """A part from rows (onset, end, pitch)."""
    return Part(np.array([(*row, 100) for row in rows], NOTE), program, channel, "", np.array(controls or [], CONTROL))


MOVES = [(0.1, SUSTAIN, 127), (3.0, SUSTAIN, 0), (4.1, PITCH_BEND, 8191)]
BAND = Song(
    (
        make_part(33, [(beat / 2, beat / 2 + 0.45, 36) for beat in range(20)]),
        make_part(48, [(0.0, 0.5, 69), (4.0, 4.5, 69)], 1, MOVES),
        make_part(0, [(beat / 2, beat / 2 + 0.1, (36, 42, 38, 42)[beat % 4]) for beat in range(20)], DRUM_CHANNEL),
    )
)


@pytest.fixture
def band_page(browser, address) -> Iterator:
    """A page whose server answers every ask with BAND, in the page's own messages."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    _answer_with(page, BAND, 10.0)
    page.goto(address)
    until(page, WHOLE)
    yield page
    context.close()
    assert not wrong


def _answer_with(page, song: Song, seconds: float) -> None:
    blocks = int(np.ceil(seconds / BLOCK_SECONDS))

    def connect(line) -> None:
        def answer(text: str) -> None:
            ask = json.loads(text)["ask"]
            line.send(json.dumps({"kind": "head", "ask": ask, "parts": messages.page_parts(song)}))
            for start, stop in ((0, blocks // 2), (blocks // 2, blocks)):
                span = {"from": start, "to": stop, "blocks": blocks}
                stretch = messages.page_notes(song, start * BLOCK_SECONDS, stop * BLOCK_SECONDS)
                line.send(json.dumps({"kind": "stretch", "ask": ask, **span, **stretch}))
            line.send(json.dumps({"kind": "done", "ask": ask}))

        line.on_message(answer)

    page.route_web_socket(re.compile("/play$"), connect)


def test_a_band_is_listed_and_coloured(band_page):
    rows = band_page.locator("#parts li")
    assert rows.all_inner_texts() == [f"{name}\nM\nS" for name in ("Fingered Bass", "String Ensemble 1", "Drums")]
    colours = band_page.evaluate(
        "() => [...document.querySelectorAll('#parts i')].map((one) => getComputedStyle(one).backgroundColor)"
    )
    assert len(set(colours)) == 3
    assert band_page.evaluate("() => studio.roll.rows") == ["Hats", "Snare", "Kick"]
    roll = band_page.evaluate("() => ({ start: studio.roll.start, span: studio.roll.span })")
    assert roll["start"] == pytest.approx(-66 / 1246 * roll["span"], rel=0.05)  # first notes stand beside these names
    strings = "studio.music.order.slice(1, 2).map((part) => ({ ...part, number: 0 }))"
    band_page.evaluate(f"() => studio.wire.calls.head({strings}, true)")  # an opening in which only strings play
    assert rows.count() == 3
    assert band_page.evaluate("() => studio.music.order.map((part) => studio.music.parts.indexOf(part))") == [1]
    band_page.evaluate("() => studio.wire.calls.head(studio.music.order)")
    assert band_page.evaluate("() => studio.music.parts.map(({ hue }) => hue)") == [1]  # in the colour that it had


def test_parts_are_muted_and_played_alone_with_keys(band_page):
    heard = "() => studio.music.parts.map((part) => part.heard)"
    band_page.get_by_role("button", name="Mute Fingered Bass").focus()
    band_page.keyboard.press("Enter")
    assert band_page.evaluate(heard) == [False, True, True]
    band_page.get_by_role("button", name="Solo Drums").click()
    assert band_page.evaluate(heard) == [False, False, True]
    assert band_page.get_by_role("button", name="Solo Drums").get_attribute("aria-pressed") == "true"
    band_page.evaluate("() => { studio.pad.calls.change(); }")  # the same instruments, asked for again
    band_page.wait_for_timeout(200)
    assert band_page.evaluate(heard) == [False, False, True]
    band_page.click("#play")
    until(band_page, f"() => ({LEVEL})() > 0.001")
    band_page.get_by_role("button", name="Mute Drums").click()
    band_page.get_by_role("button", name="Solo Drums").click()
    band_page.get_by_role("button", name="Mute String Ensemble 1").click()
    assert band_page.evaluate(heard) == [False, False, False]
    until(band_page, f"() => ({LEVEL})() < 0.001")
    assert band_page.evaluate("() => studio.player.playing")


def test_one_part_has_no_list(page):
    page.locator(".anchor").nth(0).click()  # the chorale
    until(page, "() => studio.music.parts.length === 1")
    assert not page.locator("#parts").is_visible()


RENDER = """async ([from, to]) => { // the sound of the music from one time to another, made faster than it is played
  const { Voice } = await import("/voice.js");
  const { Player } = await import("/player.js");
  const voice = new Voice("/sounds.js");
  voice.need(studio.music.parts.map(({ family }) => family));
  await Promise.all(Object.values(voice.ready));
  voice.worker.terminate(); // the first sounds will do for all pitches
  voice.build(new OfflineAudioContext(1, 44100 * (to - from), 44100));
  const player = new Player(studio.music, voice);
  Object.assign(player, { playing: true, cursor: from, clock: 0, starts: [{ clock: 0, cursor: from }] });
  player.open();
  while (player.cursor < to) {
    player.emit(Math.min((player.index + 1) * studio.music.block, to));
    player.clock += Math.min((player.index + 1) * studio.music.block, to) - player.cursor;
    player.cursor = Math.min((player.index + 1) * studio.music.block, to);
    if (player.cursor < to) player.open();
  }
  const sound = new Uint8Array((await voice.context.startRendering()).getChannelData(0).buffer);
  return btoa(sound.reduce((text, byte) => text + String.fromCharCode(byte), "")); // a list of numbers takes seconds
}"""


def _sound(page, start: float, end: float) -> np.ndarray:
    return np.frombuffer(base64.b64decode(page.evaluate(RENDER, [start, end])), np.float32)


def _strongest(sound: np.ndarray) -> float:
    """The frequency in hertz where a sound's spectrum is highest."""
    return float(np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 2**17)).argmax() * 44100 / 2**17)


def test_pedals_and_bends_are_heard(band_page):
    band_page.get_by_role("button", name="Solo String Ensemble 1").click()
    held = _sound(band_page, 0.0, 4.0)
    level = [np.sqrt((held[round(at * 44100) : round((at + 0.3) * 44100)] ** 2).mean()) for at in (0.2, 2.5, 3.6)]
    assert level[1] > 0.5 * level[0]  # the pedal holds it
    assert level[2] < 0.1 * level[0]
    bent = _sound(band_page, 4.0, 4.5)
    assert _strongest(held[8820:22050]) == pytest.approx(440, rel=0.01)
    assert _strongest(bent[8820:19845]) == pytest.approx(440 * 2 ** (2 / 12), rel=0.01)


def test_a_quiet_beginning_is_heard(browser, address):
    """The first bars are played louder, up to what is heard well; what comes later is as loud as it was written."""
    quiet = make_part(0, [(beat / 2, beat / 2 + 0.45, 60) for beat in range(60)])
    quiet.notes["velocity"] = 40
    context = browser.new_context()
    page = context.new_page()
    _answer_with(page, Song((quiet,)), 30.0)
    page.goto(address)
    until(page, WHOLE)
    begin, later = (np.sqrt((_sound(page, start, start + 3.0) ** 2).mean()) for start in (0.0, 24.0))
    assert begin > 2.5 * later
    assert page.evaluate("() => [3, 12, 18].map((time) => studio.music.lift(time))") == pytest.approx(
        [2.8, 2.8**0.5, 1]
    )
    loud = "() => { for (const block of studio.music.blocks) for (const note of block.notes) note.velocity = 127; }"
    page.evaluate(loud)
    page.evaluate("() => { studio.music.opening = null; }")
    assert page.evaluate("() => studio.music.lift(3)") < 1.1
    context.close()


def test_a_note_ends_once(page):
    """Chromium sometimes says twice that a sound has ended."""
    page.click("#play")
    until(page, "() => studio.voice.notes.size > 0")
    page.evaluate("() => { globalThis.sources = [...studio.voice.notes].map(({ source }) => source); }")
    for _ in range(2):
        page.evaluate("() => { for (const source of sources) source.dispatchEvent(new Event('ended')); }")


def test_a_bands_page_on_a_phone(browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, color_scheme="light")
    page = context.new_page()
    _answer_with(page, BAND, 10.0)
    page.goto(address)
    until(page, WHOLE)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Mute Drums").tap()
    assert page.evaluate("() => studio.music.parts.map((part) => part.heard)") == [True, True, False]
    context.close()
