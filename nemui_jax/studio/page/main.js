// Connects the modules: one state, changed by pointer, keys and links; the server turns it into music.

import { onTheme, setPlace } from "./colour.js";
import { toCommand } from "./command.js";
import { Factors } from "./factors.js";
import { Guests } from "./guests.js";
import { listenToDrops, listenToKeys } from "./keys.js";
import { fromFragment, toFragment } from "./link.js";
import { askForDevice } from "./midi_out.js";
import { describe, fileName, plain } from "./names.js";
import { Pad } from "./pad.js";
import { PartList } from "./parts.js";
import { Music, Player } from "./player.js";
import { clock, Roll } from "./roll.js";
import { Sliders } from "./sliders.js";
import { SongList } from "./songs.js";
import { Undo } from "./undo.js";
import { Voice } from "./voice.js";
import { centre, moments, normal, pointOf, toRecipe, weightsAt } from "./weights.js";
import { download, getJson, Wire } from "./wire.js";

const MOST_ON_PAD = 300;
const HINT = "Drag the point. Click a song to hear it alone.";
const TONICS = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"];
const $ = (id) => document.getElementById(id);
const voice = new Voice("sounds.js");
const info = await getJson("/songs");
const short = (song) => plain(info.songs[song].name);
Object.assign(info, { short, onPad: firstOnPad() });
for (const { index, place: [x, y] } of info.songs) setPlace(index, { x, y });
const music = new Music(info.block);
const player = new Player(music, voice);
const stats = { changes: [], first: null };
const fresh = () => ({
  pad: info.onPad.map((song) => home(song)),
  at: centre(info.first.map((song) => ({ ...home(song), weight: 1 }))),
  weights: normal(info.first.map((song) => [song, 1])),
  path: null, random: false, drawn: null, noise: 0, seed: 0, seconds: info.seconds, key: "", factors: {},
});
const state = fresh();

for (const tonic of TONICS) $("key").append(new Option(tonic, tonic));
const shift = () => (state.key ? ((6 - TONICS.indexOf(state.key) + 12) % 12) - 6 : null);
const recipe = () => toRecipe(state, shift(), info.limits.songs);

/** The songs of the run that stand on the pad from the beginning: all, or of very many some, evenly chosen. */
function firstOnPad() {
  const songs = info.songs.filter(({ in_run }) => in_run !== null).map(({ index }) => index);
  if (songs.length <= MOST_ON_PAD) return songs;
  const chosen = Array.from({ length: MOST_ON_PAD }, (_, i) => songs[Math.floor((i * songs.length) / MOST_ON_PAD)]);
  return [...new Set([...info.first, ...chosen])];
}

function home(song) {
  const [x, y] = info.songs[song].place;
  return { song, x, y };
}

// Changes

let rows = moments(state); // weights at moments of the piece
let last = null; // the weights that are shown
const weightsNow = (seconds) => rows[Math.min(rows.length - 1, Math.max(0, Math.round((seconds / music.seconds) * (rows.length - 1))))];

/** The state changed: everything follows. `began` is when the hand moved. */
function change(began = performance.now()) {
  rows = moments(state);
  wire.ask(recipe(), Math.floor((player.position + (player.playing ? 0.2 : 0)) / music.block), began);
  show();
  undo.note();
  clearTimeout(change.later);
  change.later = setTimeout(() => history.replaceState(null, "", toFragment(state, info)), 250);
}

function show() {
  $("noise").value = state.noise;
  $("noise").disabled = state.random;
  $("noise-out").textContent = state.random ? "" : state.noise ? `${Math.round(state.noise * 100)} %` : "none";
  $("seconds").value = state.seconds;
  $("key").value = state.key;
  $("command").textContent = toCommand(state, info, shift());
  $("heard").textContent = [...(state.random ? [`Random song ${state.drawn?.seed ?? ""}`] : []), ...describe(state, rows, short)].join("   ·   ");
  pad.point.classList.toggle("led", !!state.path || state.random);
  sliders.show(state, rows);
  factors.show([...new Set(rows.flatMap((row) => [...row.keys()]))]);
  follow(true);
  roll.dirty = true;
}

/** What follows the playhead where weights move. */
function follow(always = false) {
  const weights = weightsNow(player.position);
  if (weights === last && !always) return;
  last = weights;
  pad.draw(weights, pointOf(state, weights, player.position / music.seconds));
  sliders.set(weights);
}

/** Leaves a path, a random song and weights set by hand; the point stays where it is. */
function still() {
  if (state.path || state.random || state.weights) state.at = pad.at ?? state.at;
  Object.assign(state, { path: null, random: false, drawn: null, weights: null });
}

function solo(song) {
  undo.commit();
  addToPad(song);
  const { x, y } = state.pad.find((one) => one.song === song);
  still();
  state.at = { x, y };
  state.weights = new Map([[song, 1]]);
  change();
}

function addToPad(song) {
  if (state.pad.some((one) => one.song === song)) return;
  state.pad.push(home(song));
  pad.refresh();
}

/** Gives a song as large a share as the others have. */
function addToMix(song) {
  addToPad(song);
  setWeight(song, 1 / (weightsNow(player.position).size + 1));
}

function removeSong(song) {
  if (state.pad.length < 2) return;
  state.pad = state.pad.filter((one) => one.song !== song);
  for (const [factor, chosen] of Object.entries(state.factors)) if (chosen === song) delete state.factors[factor];
  if (state.weights?.delete(song)) state.weights = state.weights.size ? normal([...state.weights]) : null;
  if (state.random) still();
  pad.refresh();
  change();
}

/** Gives a song a weight; the others share the rest as before. */
function setWeight(song, weight, began) {
  const others = [...weightsNow(player.position)].filter(([other, value]) => other !== song && value > 0);
  const sum = others.reduce((total, [, value]) => total + value, 0);
  if (!others.length && weight < 1) {
    const other = state.pad.find((one) => one.song !== song);
    if (!other) return;
    others.push([other.song, 1]);
  }
  const rest = others.map(([other, value]) => [other, ((1 - weight) * value) / (sum || 1)]);
  still();
  state.weights = normal([[song, weight], ...rest], 1e-4);
  change(began);
}

/** The state of the link that the page was opened with. */
function restore() {
  const { state: found, remark } = fromFragment(location.hash, info);
  Object.assign(state, fresh(), found);
  if (found.at && !found.weights) state.weights = null;
  if (!TONICS.includes(state.key)) state.key = "";
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

if (location.hash) restore();
let waypoints = [];

const guests = new Guests($("guests"), info, {
  arrived(song, mine) {
    setPlace(song, { x: info.songs[song].place[0], y: info.songs[song].place[1] });
    if (mine) solo(song);
    songs.show();
  },
  changed(song) {
    if (rows.some((row) => row.has(song)) || Object.values(state.factors).includes(song)) change();
  },
  async kept({ name }) {
    const { songs: newer, fingerprint } = await getJson("/songs");
    for (const song of newer) info.songs[song.index] = song;
    info.fingerprint = fingerprint;
    say(`${name}: kept in the run`);
    change();
  },
  solo,
  say,
});

const pad = new Pad($("pad"), state, info, {
  change(began) {
    $("hint").textContent = "";
    change(began);
  },
  anchor: () => change(),
  drawn(path) {
    still();
    state.path = path;
    setDrawing(false);
    player.seek(0);
    change();
  },
  solo,
  remove: removeSong,
  note: (song) => (guests.isRough(song) ? "(rough)" : ""),
  waypoint() {
    const at = { ...pad.at };
    waypoints = [...waypoints, at];
    say(`Place ${waypoints.length} of the path`);
    if (waypoints.length > 1) Object.assign(state, { path: waypoints, weights: null, random: false });
    change();
    state.at = at;
  },
});
const sliders = new Sliders($("sliders"), info, { weigh: setWeight, remove: (song) => setWeight(song, 0) });
const factors = new Factors($("factors"), state, info, () => change());
const songs = new SongList($("list"), $("find"), info, { solo, add: addToMix });
const roll = new Roll($("roll"), player, { seek, loop: setLoop, weights: weightsNow });
const parts = new PartList($("parts"), music, () => {
  player.sink.hear();
  roll.refresh();
});
const undo = new Undo(
  () => ({ ...state, drawn: null }),
  (before) => {
    Object.assign(state, before);
    waypoints = [];
    pad.refresh();
    change();
  },
);
const wire = new Wire({
  head(list) {
    music.head(list);
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
    state.drawn = drawn;
    drawn.songs.forEach(addToPad);
    rows = moments(state);
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
  if (!music.blocks[Math.floor(player.position / music.block)]) change();
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

function vary() {
  undo.commit();
  if (state.random) still();
  state.seed += 1;
  state.noise ||= 0.25;
  change();
}

function random() {
  if (info.songs.filter(({ in_run }) => in_run !== null).length < 2) return say("A new song is drawn from two songs or more; keep another", true);
  undo.commit();
  still();
  Object.assign(state, { random: true, seed: 1 + Math.floor(Math.random() * 9999), drawn: null });
  player.seek(0);
  change();
}

/** Back to the point: no path, no variation, no factors. */
function clear() {
  undo.commit();
  still();
  waypoints = [];
  Object.assign(state, { noise: 0, factors: {} });
  setDrawing(false);
  change();
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
function save(ending) {
  const name = fileName(state, rows, short);
  const settings = [state.key && `in ${state.key}`, state.noise && !state.random && `variation ${state.seed}, ${Math.round(state.noise * 100)} %`];
  const fixed = Object.entries(state.factors).map(([factor, song]) => `${factor} of ${short(song)}`);
  const lines = [...describe(state, rows, short), ...settings, ...fixed].filter(Boolean);
  return download({ ...recipe(), about: { title: name, lines, command: toCommand(state, info, shift()) } }, ending, name);
}

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
  state.noise = +$("noise").value;
  change(event.timeStamp);
};
$("seconds").onchange = () => {
  state.seconds = Math.min(Math.max(Math.round(+$("seconds").value) || state.seconds, 1), info.limits.seconds);
  setLoop(null);
  change();
};
$("key").onchange = () => {
  state.key = $("key").value;
  change();
};
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
$("copy-command").onclick = () => attempt(() => navigator.clipboard.writeText(toCommand(state, info, shift())), "Command copied");
$("copy-link").onclick = () => attempt(() => navigator.clipboard.writeText(location.href.split("#")[0] + toFragment(state, info)), "Link copied");

listenToKeys({ " ": toggle, v: vary, r: random, d: () => setDrawing(!pad.drawing), l: toggleLoop, escape: clear }, undo);
listenToDrops((files) => guests.drop(files));
addEventListener("hashchange", () => {
  restore();
  pad.refresh();
  change();
});
onTheme(() => {
  sliders.show(state, rows, true);
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
  if (rows.length > 1) follow();
  if (state.path && player.playing) pad.draw(last, pointOf(state, last, player.position / music.seconds));
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

change();
requestAnimationFrame(frame);
globalThis.studio = { state, info, music, player, voice, stats, wire, pad, roll, undo, guests, weightsAt }; // for tests, and the curious
