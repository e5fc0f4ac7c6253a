// Connects the modules: one state, changed by pointer, keys and links; the server turns it into music.

import { ink, onTheme } from "./colour.js";
import { fromFragment, moments, normal, toCommand, toFragment, toRecipe, weightsAt } from "./link.js";
import { MidiOut } from "./midi_out.js";
import { Pad } from "./pad.js";
import { PartList } from "./parts.js";
import { Music, Player } from "./player.js";
import { clock, Roll } from "./roll.js";
import { Voice } from "./voice.js";
import { bring, download, getJson, Wire } from "./wire.js";

const $ = (id) => document.getElementById(id);
const voice = new Voice();
const info = await getJson("/songs");
info.short = (song) => shorten(info.songs[song].name);
const music = new Music(info.block);
const player = new Player(music, voice);
const parents = new Map();
const stats = { changes: [], first: null };

const state = {
  pad: circle(info.first),
  at: { x: 0.5, y: 0.5 },
  weights: null, path: null, random: false, drawn: null,
  noise: 0, seed: 0, seconds: info.seconds, key: "",
};
restore();

const TONICS = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"];
for (const tonic of TONICS) $("key").append(new Option(tonic, tonic));
$("key").value = state.key = TONICS.includes(state.key) ? state.key : "";
const shift = () => (state.key ? ((6 - TONICS.indexOf(state.key) + 12) % 12) - 6 : null);

// Changes

let rows = moments(state); // weights at moments of the piece
const weightsNow = (seconds) => rows[Math.min(rows.length - 1, Math.max(0, Math.round((seconds / music.seconds) * (rows.length - 1))))];

/** The state changed: everything follows. `began` is when the hand moved. */
function change(began = performance.now()) {
  rows = moments(state);
  wire.ask(toRecipe(state, shift()), Math.floor((player.position + (player.playing ? 0.2 : 0)) / music.block), began);
  show();
  clearTimeout(change.later);
  change.later = setTimeout(() => history.replaceState(null, "", toFragment(state)), 250);
}

function show() {
  if (!state.random) for (const row of rows) for (const [song] of row) if (!parents.has(song)) loadParent(song);
  $("plain").hidden = !(state.path || state.random || state.noise || state.weights);
  $("noise").value = state.noise;
  $("noise").disabled = state.random;
  $("noise-out").textContent = state.random ? "" : state.noise ? `${Math.round(state.noise * 100)} %` : "none";
  $("seconds").value = state.seconds;
  $("command").textContent = toCommand(state, info);
  pad.point.classList.toggle("led", !!state.path || state.random);
  if (!pad.drawing && (state.path || state.random)) $("hint").classList.add("gone");
  showSliders();
  follow(true);
  roll.dirty = true;
}

/** What follows the playhead where weights move. */
function follow(always = false) {
  const weights = weightsNow(player.position);
  if (weights === follow.weights && !always) return;
  follow.weights = weights;
  pad.draw(weights, state.path || state.random || state.weights ? centreOrPath(weights) : state.at);
  for (const [song, { input, output, item }] of sliders) {
    const weight = weights.get(song) ?? 0;
    if (document.activeElement !== input || !sliding) input.value = weight;
    input.setAttribute("aria-valuetext", `${Math.round(weight * 100)} %`);
    output.textContent = `${(weight * 100).toFixed(weight && weight < 0.0995 ? 1 : 0)} %`;
    item.classList.toggle("off", !weight);
  }
  const heard = [...weights].sort((a, b) => b[1] - a[1]).map(([song, weight]) => `${Math.round(weight * 100)} % ${info.short(song)}`);
  $("heard").textContent = (state.random ? `Random song ${state.seed}:  ` : "") + heard.join("   ·   ");
}

function centreOrPath(weights) {
  if (!state.path) return centre(weights);
  const share = Math.min(1, player.position / music.seconds);
  const lengths = state.path.map((place, i) => (i ? Math.hypot(place.x - state.path[i - 1].x, place.y - state.path[i - 1].y) : 0));
  let left = share * lengths.reduce((a, b) => a + b, 0);
  for (let i = 1; i < lengths.length; i++) {
    if (left <= lengths[i] || i === lengths.length - 1) {
      const [from, to, part] = [state.path[i - 1], state.path[i], Math.min(1, left / (lengths[i] || 1))];
      return { x: from.x + (to.x - from.x) * part, y: from.y + (to.y - from.y) * part };
    }
    left -= lengths[i];
  }
  return state.path[0];
}

function centre(weights) {
  let [x, y, sum] = [0, 0, 0];
  for (const { song, x: px, y: py } of state.pad) {
    const weight = weights.get(song) ?? 0;
    x += weight * px;
    y += weight * py;
    sum += weight;
  }
  return sum ? { x: x / sum, y: y / sum } : { x: 0.5, y: 0.5 };
}

function still() {
  if (state.path || state.random || state.weights) state.at = pad.at ?? state.at;
  Object.assign(state, { path: null, random: false, drawn: null, weights: null });
}

const solo = (song) => {
  const anchor = state.pad.find((one) => one.song === song);
  still();
  state.at = { x: anchor.x, y: anchor.y };
  change();
};

function addSong(song) {
  if (!state.pad.some((one) => one.song === song)) {
    state.pad.push({ song, ...freePlace() });
    pad.refresh();
    listSongs();
  }
}

function removeSong(song) {
  if (state.pad.length < 2) return;
  state.pad = state.pad.filter((one) => one.song !== song);
  if (state.weights) {
    state.weights.delete(song);
    state.weights = state.weights.size ? normal([...state.weights]) : null;
  }
  if (state.random) still();
  pad.refresh();
  listSongs();
  change();
}

/** The emptiest place of the pad. */
function freePlace() {
  let best = { x: 0.5, y: 0.5 }, most = -1;
  for (let i = 0; i < 200; i++) {
    const place = { x: 0.08 + 0.84 * ((i * 0.618034) % 1), y: 0.1 + 0.8 * ((i * 0.754878) % 1) };
    const room = Math.min(...state.pad.map(({ x, y }) => Math.hypot(x - place.x, y - place.y)), Math.hypot(state.at.x - place.x, state.at.y - place.y) * 1.4);
    if (room > most) [best, most] = [place, room];
  }
  return best;
}

function circle(songs) {
  const turn = songs.length > 2 ? -1.309 : Math.PI;
  return songs.map((song, i) => {
    const angle = turn + (2 * Math.PI * i) / songs.length;
    return songs.length === 1 ? { song, x: 0.5, y: 0.5 } : { song, x: 0.47 + 0.36 * Math.cos(angle), y: 0.5 + 0.36 * Math.sin(angle) };
  });
}

function restore() {
  const found = fromFragment(location.hash, info);
  if (found.weights && !found.pad) {
    const missing = [...found.weights.keys()].filter((song) => !state.pad.some((one) => one.song === song));
    found.pad = circle([...info.first, ...missing].slice(-24));
  }
  Object.assign(state, { path: null, random: false, drawn: null }, found);
}

async function loadParent(song) {
  parents.set(song, null);
  try {
    const { notes } = await getJson(`/songs/${song}`);
    const from = (seconds) => { // of the first note at or after a time
      let [low, high] = [0, notes.length / 4];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (notes[4 * middle] < seconds * 1000) low = middle + 1;
        else high = middle;
      }
      return 4 * low;
    };
    parents.set(song, { notes, from, blocks: info.songs[song].blocks });
    roll.refresh();
  } catch {
    parents.delete(song);
  }
}

function shorten(name) {
  const parts = name.split(/__+/).map((part) => part.replaceAll("_", " ").trim()).filter(Boolean);
  if (parts.length > 3) parts.pop();
  return parts.join(" · ");
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
  clearTimeout(say.later);
  if (text) say.later = setTimeout(() => say(""), bad ? 9000 : 4000);
}

// Sliders and the list of songs

const sliders = new Map();
let sliding = false;
let waypoints = [];

function showSliders() {
  const songs = state.pad.map(({ song }) => song);
  if ([...sliders.keys()].join() === songs.join()) return;
  sliders.clear();
  $("sliders").replaceChildren(...songs.map((song) => {
    const item = document.createElement("li");
    item.style.setProperty("--ink", ink(song));
    const label = Object.assign(document.createElement("label"), { textContent: info.short(song), htmlFor: `weight-${song}`, title: info.songs[song].name });
    const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 1, step: 0.01, id: `weight-${song}` });
    const output = document.createElement("output");
    const off = Object.assign(document.createElement("button"), { textContent: "×", title: "Remove it from the pad" });
    off.setAttribute("aria-label", `Take ${info.songs[song].name} off the pad`);
    off.onclick = () => removeSong(song);
    input.oninput = (event) => {
      sliding = true;
      setWeight(song, +input.value, event.timeStamp);
    };
    input.onchange = () => (sliding = false);
    item.append(document.createElement("i"), label, input, output, off);
    sliders.set(song, { input, output, item });
    return item;
  }));
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

function listSongs() {
  const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const on = new Set(state.pad.map(({ song }) => song));
  const found = info.songs.filter(({ index, name }) => !on.has(index) && words.every((word) => name.toLowerCase().includes(word)));
  $("list").replaceChildren(...found.slice(0, 100).map((song) => {
    const button = document.createElement("button");
    button.style.setProperty("--ink", ink(song.index));
    const name = Object.assign(document.createElement("span"), { textContent: info.short(song.index), title: song.name });
    const length = Object.assign(document.createElement("small"), { textContent: `${song.key}  ${clock(song.seconds)}` });
    button.append(document.createElement("i"), name, length);
    button.onclick = () => {
      addSong(song.index);
      change();
    };
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
  $("more").hidden = on.size >= info.songs.length;
}

// Parts

const pad = new Pad($("pad"), state, info, {
  change(began) {
    $("hint").classList.add("gone");
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
  waypoint() {
    const at = { ...pad.at };
    waypoints = [...waypoints, at];
    say(`Place ${waypoints.length} of the path`);
    if (waypoints.length > 1) Object.assign(state, { path: waypoints, weights: null, random: false });
    const keep = { ...state, path: null };
    change();
    if (keep.at) state.at = at;
  },
});

const roll = new Roll($("roll"), player, {
  seek,
  loop: setLoop,
  weights: weightsNow,
  parent: (song) => (state.random ? null : parents.get(song)), // a random song reads its songs in other places
});
roll.pitches = [Math.max(0, info.low - 5), Math.min(127, info.high + 6)];

const parts = new PartList($("parts"), music, () => {
  player.sink.hear();
  roll.refresh();
});

const wire = new Wire({
  head(list) {
    music.head(list);
    voice.need(list.map(({ family }) => family));
    parts.show();
  },
  stretch(stretch, began) {
    music.set(stretch);
    roll.changed(stretch.from, stretch.to);
    if (began !== null) requestAnimationFrame(() => {
      roll.frame();
      stats.changes.push(performance.now() - began);
      if (stats.changes.length > 5000) stats.changes.shift();
    });
    if (stats.first === null) stats.first = performance.now();
  },
  drawn({ songs, weights }) {
    if (!state.random) return;
    state.drawn = weights.map((row) => new Map(row.map((weight, i) => [songs[i], weight])));
    for (const song of songs) addSong(song);
    rows = moments(state);
    show();
    roll.refresh();
  },
  wrong: (reason) => say(reason, true),
  state: (open) => {
    if (!open) say("The studio's server does not answer: start it again in the terminal", true);
    else if ($("status").classList.contains("bad")) say("");
  },
});

function seek(seconds) {
  player.seek(seconds);
  follow();
  roll.dirty = true;
  if (!music.blocks[Math.floor(player.position / music.block)]) change();
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
  $("hint").textContent = on ? "Draw a path: the music follows it." : "Drag the point. Click a song to hear it alone.";
  $("hint").classList.toggle("gone", !on);
}

function vary() {
  if (state.random) still();
  state.seed += 1;
  state.noise ||= 0.25;
  change();
}

function random() {
  if (info.songs.length < 2) return say("A new song is drawn from two songs or more; add another", true);
  still();
  Object.assign(state, { random: true, seed: 1 + Math.floor(Math.random() * 9999), drawn: null });
  player.seek(0);
  change();
}

function plain() {
  still();
  waypoints = [];
  state.noise = 0;
  setDrawing(false);
  change();
}

async function toggle() {
  if (player.playing) player.pause();
  else {
    if (!voice.isReady) say("Preparing the instruments");
    await player.play();
    roll.follow = true;
  }
}

async function attempt(task, done) {
  try {
    await task();
    if (done) say(done);
  } catch (error) {
    say(error.message || String(error), true);
  }
}

async function bringIn(file) {
  const most = info.limits.bytes / 2 ** 20;
  if (file.size > info.limits.bytes) return say(`${file.name} is larger than ${most} MiB, the most that the studio takes`, true);
  const veil = $("veil");
  veil.hidden = false;
  veil.querySelector("p").textContent = `Learning ${file.name}`;
  const bar = veil.querySelector("progress");
  bar.removeAttribute("value");
  await attempt(async () => {
    const { song, note_f1: f1 } = await bring(file, (share) => (bar.value = share));
    info.songs[song.index] = song;
    addSong(song.index);
    solo(song.index);
    say(`${song.name}: learned, ${Math.round(f1 * 100)} % of its notes come back`);
  });
  veil.hidden = true;
}

// Hands and keys

$("play").onclick = toggle;
$("repeat").onclick = toggleLoop;
$("draw").onclick = () => setDrawing(!pad.drawing);
$("vary").onclick = vary;
$("random").onclick = random;
$("plain").onclick = plain;
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
$("find").oninput = listSongs;
$("bring").onclick = () => $("file").click();
$("file").onchange = () => {
  if ($("file").files[0]) bringIn($("file").files[0]);
  $("file").value = "";
};
const fileName = () => (state.random ? `random-${state.seed}` : (state.path ? "morph" : [...rows[0]].map(([song, weight]) => `${song}@${Math.round(weight * 100)}`).join("+")) + (state.noise ? `-v${state.seed}` : ""));
$("take-mid").onclick = () => attempt(() => download(toRecipe(state, shift()), "mid", fileName()));
$("take-wav").onclick = () => {
  say("Rendering");
  attempt(() => download(toRecipe(state, shift()), "wav", fileName()), "Rendered");
};
$("copy-command").onclick = () => attempt(() => navigator.clipboard.writeText(toCommand(state, info)), "Command copied");
$("copy-link").onclick = () => attempt(() => navigator.clipboard.writeText(location.href.split("#")[0] + toFragment(state)), "Link copied");

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const tag = event.target.tagName;
  if (event.target.matches("input:not([type=range]), select, summary")) return;
  if (event.key === " " && tag === "BUTTON") return;
  const acts = { " ": toggle, v: vary, r: random, d: () => setDrawing(!pad.drawing), l: toggleLoop, escape: plain };
  const act = acts[event.key.toLowerCase()];
  if (!act || event.repeat) return;
  event.preventDefault();
  act();
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) bringIn(event.dataTransfer.files[0]);
});
addEventListener("hashchange", () => {
  restore();
  pad.refresh();
  listSongs();
  change();
});
onTheme(() => {
  sliders.clear();
  show();
  listSongs();
  parts.show(true);
  roll.refresh();
});

if (navigator.requestMIDIAccess) {
  $("sink").hidden = false;
  $("sink").append(new Option("MIDI device…", "ask"));
  let access = null;
  $("sink").onchange = () => attempt(async () => {
    if ($("sink").value === "ask") {
      access = await navigator.requestMIDIAccess();
      const ports = [...access.outputs.values()];
      $("sink").replaceChildren(new Option("This page", ""), ...ports.map((port) => new Option(port.name, port.id)));
      if (!ports.length) throw new Error("No MIDI device is connected");
      $("sink").value = ports[0].id;
    }
    const port = access?.outputs.get($("sink").value);
    player.sink.silence();
    player.sink = port ? new MidiOut(port, voice) : voice;
  });
}

// Every frame

let last = "";
function frame() {
  roll.frame();
  if (rows.length > 1) follow();
  if (state.path && player.playing) pad.draw(follow.weights, centreOrPath(follow.weights));
  document.body.classList.toggle("playing", player.playing);
  const text = `${clock(player.position)} / ${clock(music.seconds)}`;
  if (text !== last) {
    last = text;
    $("time").textContent = text;
    const canvas = roll.canvas;
    canvas.setAttribute("aria-valuemax", Math.round(music.seconds));
    canvas.setAttribute("aria-valuenow", Math.round(player.position));
    canvas.setAttribute("aria-valuetext", text.replace("/", "of"));
    $("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
  }
  requestAnimationFrame(frame);
}

listSongs();
change();
requestAnimationFrame(frame);
globalThis.studio = { state, info, music, player, voice, stats, wire, pad, roll, weightsAt }; // for tests, and the curious
