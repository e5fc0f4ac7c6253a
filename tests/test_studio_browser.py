"""The studio's page in real Chromium: hands, keys, links, files and sound. Nothing may leave the machine."""

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs the extra studio")
pytest.importorskip("uvicorn", reason="needs the extra studio")
api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra test)")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if not CHROMIUM:
    pytest.skip("needs chromium: apt-get install chromium, or set CHROMIUM", allow_module_level=True)

from nemui_jax.music import midi_reader  # noqa: E402
from nemui_jax.music.song import CONTROL, DRUM_CHANNEL, NOTE, PITCH_BEND, SUSTAIN, Part, Song  # noqa: E402
from nemui_jax.studio import messages, server  # noqa: E402
from nemui_jax.studio.piece import BLOCK_SECONDS  # noqa: E402

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
def address(trained) -> Iterator[str]:
    studio = server.load(trained.path)
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


def test_a_dropped_file_becomes_an_anchor(page, songs_folder):
    data = (songs_folder / "rubato.mid").read_bytes()
    songs, anchors = page.evaluate("() => studio.info.songs.length"), page.locator(".anchor").count()
    page.evaluate(
        """(bytes) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "<img src=x>.mid"));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        list(data),
    )
    until(page, f"() => studio.info.songs.length > {songs} && document.getElementById('veil').hidden", 30)
    assert page.locator(".anchor").count() == anchors + 1
    assert page.locator(".anchor").last.text_content() == "<img src=x>"
    assert page.locator("#pad img").count() == 0
    until(page, f"() => ({NOTES})().length > 0")


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
    assert "--morph" in page.locator("#command").text_content()
    page.keyboard.press("r")
    until(page, "() => studio.state.random && !!studio.state.drawn")
    assert "--random --seed" in page.locator("#command").text_content()


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


def test_touch_on_a_phone(browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, color_scheme="light")
    page = context.new_page()
    page.goto(address)
    until(page, WHOLE)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    box = page.locator("#pad").bounding_box()
    page.touchscreen.tap(box["x"] + 50, box["y"] + 50)
    until(page, "() => studio.state.at.x < 0.3 && studio.state.at.y < 0.3")
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
  const voice = new Voice();
  voice.need(studio.music.parts.map(({ family }) => family));
  await Promise.all(Object.values(voice.ready));
  await new Promise((done) => setTimeout(done, 1500)); // the sounds of all pitches
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
  return [...(await voice.context.startRendering()).getChannelData(0)];
}"""


def _sound(page, start: float, end: float) -> np.ndarray:
    return np.array(page.evaluate(RENDER, [start, end]))


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
