// Connects the modules: one session, changed by pointer, keys and links; the server turns it into music.

import { onTheme, setPlace } from "./colour.js";
import { Factors } from "./factors.js";
import { Guests } from "./guests.js";
import { listenToDrops, listenToKeys } from "./keys.js";
import { askForDevice } from "./midi_out.js";
import { plain } from "./names.js";
import { Pad } from "./pad.js";
import { PartList } from "./parts.js";
import { AHEAD, Music, Player } from "./player.js";
import { clock, Roll } from "./roll.js";
import { Session, TONICS } from "./session.js";
import { Sliders } from "./sliders.js";
import { SongList } from "./songs.js";
import { Undo } from "./undo.js";
import { Voice } from "./voice.js";
import { pointOf, weightsAt } from "./weights.js";
import { download, getJson, Wire } from "./wire.js";

const HINT = "Drag the point. Click a song to hear it alone.";
const $ = (id) => document.getElementById(id);
const voice = new Voice("sounds.js");
const info = await getJson("/songs");
info.short = (song) => plain(info.songs[song].name);
const music = new Music(info.block);
const player = new Player(music, voice);
const stats = { changes: [], first: null };
const share = () => player.position / music.seconds;
const session = new Session(info, { changed: change, moved: () => pad.refresh(), share, point: () => pad.at });
const { state } = session;
for (const tonic of TONICS) $("key").append(new Option(tonic, tonic));
if (location.hash) restore();

// Changes

let last = null; // the weights that are shown

/** The session changed: everything follows. `began` is when the hand moved. */
function change(began = performance.now()) {
  const next = player.position + (player.playing ? AHEAD + 0.04 : 0); // what is nearer has been handed on
  wire.ask(session.recipe, Math.floor(next / music.block), began);
  show();
  undo.note();
  clearTimeout(change.later);
  change.later = setTimeout(() => history.replaceState(null, "", session.fragment), 250);
}

function show() {
  const { rows } = session;
  $("noise").value = state.noise;
  $("noise").disabled = state.random;
  $("noise-out").textContent = state.random ? "" : state.noise ? `${Math.round(state.noise * 100)} %` : "none";
  $("seconds").value = state.seconds;
  $("key").value = state.key;
  $("command").textContent = session.command;
  $("heard").textContent = [...(state.random ? [`Random song ${state.drawn?.seed ?? ""}`] : []), ...session.words].join("   ·   ");
  pad.point.classList.toggle("led", !!state.path || state.random);
  sliders.show(state, rows);
  factors.show([...new Set(rows.flatMap((row) => [...row.keys()]))]);
  follow(true);
  roll.dirty = true;
}

/** What follows the playhead where weights move. */
function follow(always = false) {
  const weights = session.weightsAt(share());
  if (weights === last && !always) return;
  last = weights;
  pad.draw(weights, pointOf(state, weights, share()));
  sliders.set(weights);
}

function solo(song) {
  undo.commit();
  session.solo(song);
}

/** The state of the link that the page was opened with. */
function restore() {
  const remark = session.open(location.hash);
  if (remark) say(remark, true);
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").title = text;
  $("status").classList.toggle("bad", bad);
  clearTimeout(say.later);
  if (text) say.later = setTimeout(() => say(""), bad ? 9000 : 5000);
}

// Parts

const guests = new Guests($("guests"), $("unkept"), info, {
  arrived(song, mine) {
    setPlace(song, { x: info.songs[song].place[0], y: info.songs[song].place[1] });
    if (mine) solo(song);
    songs.show();
  },
  changed(song) {
    if (session.rows.some((row) => row.has(song)) || Object.values(state.factors).includes(song)) session.changed();
  },
  async kept({ name }) {
    const { songs: newer, fingerprint } = await getJson("/songs");
    for (const song of newer) info.songs[song.index] = song;
    info.fingerprint = fingerprint;
    say(`${name}: kept in the run`);
    session.changed();
  },
  solo,
  say,
});

const pad = new Pad($("pad"), state, info, {
  change(began) {
    $("hint").textContent = "";
    session.changed(began);
  },
  anchor: () => session.changed(),
  drawn(path) {
    setDrawing(false);
    player.seek(0);
    session.follow(path);
  },
  solo,
  remove: (song) => session.remove(song),
  note: (song) => (guests.isRough(song) ? "(rough)" : ""),
  waypoint: () => say(`Place ${session.addWaypoint({ ...pad.at })} of the path`),
});
const sliders = new Sliders($("sliders"), info, {
  weigh: (song, weight, began) => session.setWeight(song, weight, began),
  remove: (song) => session.setWeight(song, 0),
});
const factors = new Factors($("factors"), state, info, () => session.changed());
const songs = new SongList($("list"), $("find"), info, {
  solo,
  add: (song) => session.addToMix(song),
  found: (found) => pad.mark(found),
});
const roll = new Roll($("roll"), player, { seek, loop: setLoop, weights: (seconds) => session.weightsAt(seconds / music.seconds) });
const parts = new PartList($("parts"), music, () => {
  player.sink.hear();
  roll.refresh();
});
const undo = new Undo(() => ({ ...state, drawn: null }), (before) => session.putBack(before));
const wire = new Wire({
  head(list, isOpening) {
    music.head(list, isOpening);
    voice.need(list.map(({ family }) => family));
    parts.show();
  },
  stretch(stretch, began) {
    music.set(stretch);
    fit();
    roll.changed(stretch.from, stretch.to);
    if (began !== null) requestAnimationFrame(() => {
      roll.frame();
      stats.changes.push(performance.now() - began);
      if (stats.changes.length > 5000) stats.changes.shift();
    });
    if (stats.first === null) stats.first = performance.now();
  },
  drawn(drawn) {
    if (!state.random) return;
    session.drawn(drawn);
    show();
    roll.refresh();
  },
  guests: (list) => {
    guests.take(list);
    pad.draw();
  },
  wrong: (reason) => say(reason, true),
  state: (open) => {
    if (!open) say("The studio's server does not answer: start it again in the terminal", true);
    else if ($("status").textContent.startsWith("The studio's server")) say("");
  },
});

function seek(seconds) {
  player.seek(seconds);
  follow();
  roll.dirty = true;
  if (!music.blocks[Math.floor(player.position / music.block)]) session.changed();
}

/** The piece may have become shorter: the playhead and the passage that is looped stay inside it. */
function fit() {
  if (player.loop?.[0] > music.seconds - 0.5) setLoop(null);
  if (player.cursor > music.seconds) seek(player.cursor % music.seconds);
}

function setLoop(loop) {
  player.loop = loop;
  player.repeat = !!loop;
  $("repeat").setAttribute("aria-pressed", String(!!loop));
  roll.dirty = true;
}

function toggleLoop() {
  if (player.loop) return setLoop(null);
  player.repeat = !player.repeat;
  $("repeat").setAttribute("aria-pressed", String(player.repeat));
}

function setDrawing(on) {
  pad.drawing = on;
  $("draw").setAttribute("aria-pressed", String(on));
  $("hint").textContent = on ? "Draw a path: the music follows it." : "";
}

function random() {
  if (info.songs.filter(({ in_run }) => in_run !== null).length < 2) return say("A new song is drawn from two songs or more; keep another", true);
  undo.commit();
  player.seek(0);
  session.random();
}

function vary() {
  undo.commit();
  session.vary();
}

function clear() {
  undo.commit();
  setDrawing(false);
  session.clear();
}

async function toggle() {
  if (player.playing) return player.pause();
  if (!voice.isReady) say("Preparing the instruments");
  await player.play();
  roll.follow = true;
}

async function attempt(task, done) {
  try {
    await task();
    if (done) say(done);
  } catch (error) {
    say(error.message || String(error), true);
  }
}

/** Saves the piece as a file; a page is given what is said of it. */
const save = (ending) => download({ ...session.recipe, about: session.about }, ending, session.about.title);

// Hands and keys

$("hint").textContent = HINT;
$("play").onclick = toggle;
$("repeat").onclick = toggleLoop;
$("draw").onclick = () => setDrawing(!pad.drawing);
$("vary").onclick = vary;
$("random").onclick = random;
$("undo").onclick = () => undo.back() || say("Nothing to undo");
$("in").onclick = () => roll.zoom(0.7, 0.28);
$("out").onclick = () => roll.zoom(1.43, 0.28);
$("volume").oninput = () => (voice.gain = +$("volume").value);
$("noise").oninput = (event) => {
  session.set({ noise: +$("noise").value }, event.timeStamp);
};
$("seconds").onchange = () => {
  setLoop(null);
  session.set({ seconds: Math.min(Math.max(Math.round(+$("seconds").value) || state.seconds, 1), info.limits.seconds) });
};
$("key").onchange = () => session.set({ key: $("key").value });
$("bring").onclick = () => $("file").click();
$("file").onchange = () => {
  guests.drop([...$("file").files]);
  $("file").value = "";
};
$("take-mid").onclick = () => attempt(() => save("mid"));
$("take-html").onclick = () => attempt(() => save("html"), "Saved as a page that plays by itself");
$("take-wav").onclick = () => {
  say("Rendering");
  attempt(() => save("wav"), "Rendered");
};
$("copy-command").onclick = () => attempt(() => navigator.clipboard.writeText(session.command), "Command copied");
$("copy-link").onclick = () => attempt(() => navigator.clipboard.writeText(location.href.split("#")[0] + session.fragment), "Link copied");

listenToKeys({ " ": toggle, v: vary, r: random, d: () => setDrawing(!pad.drawing), l: toggleLoop, escape: clear }, undo);
listenToDrops((files) => guests.drop(files));
addEventListener("hashchange", () => {
  restore();
  pad.refresh();
  session.changed();
});
onTheme(() => {
  sliders.show(state, session.rows, true);
  show();
  songs.show();
  parts.show(true);
  roll.refresh();
});
askForDevice($("sink"), player, voice, attempt);

// Every frame

let shown = "";
function frame() {
  roll.frame();
  if (session.rows.length > 1) follow();
  if (state.path && player.playing) pad.draw(last, pointOf(state, last, share()));
  document.body.classList.toggle("playing", player.playing);
  const text = `${clock(player.position)} / ${clock(music.seconds)}`;
  if (text !== shown) {
    shown = text;
    $("time").textContent = text;
    const canvas = roll.canvas;
    canvas.setAttribute("aria-valuemax", Math.round(music.seconds));
    canvas.setAttribute("aria-valuenow", Math.round(player.position));
    canvas.setAttribute("aria-valuetext", text.replace("/", "of"));
    $("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
  }
  requestAnimationFrame(frame);
}

session.changed();
requestAnimationFrame(frame);
globalThis.studio = { state, info, session, music, player, voice, stats, wire, pad, roll, undo, guests, weightsAt }; // for tests, and the curious
