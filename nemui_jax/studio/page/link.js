// A state as the fragment of a link, with the fingerprint of the run and the names of its songs, and back.

import { along, moments, normal } from "./weights.js";

const number = (value, digits = 4) => String(+value.toFixed(digits));
const MOST_PLACES = 48; // of a path

export function toFragment(state, info) {
  const parts = [], used = new Set();
  const name = (song) => used.add(song) && song;
  if (state.random) parts.push("random");
  else if (state.path) {
    parts.push("path=" + along(state.path, Math.min(MOST_PLACES, Math.max(2, state.path.length))).map(({ x, y }) => `${number(x)}:${number(y)}`).join(","));
    for (const row of moments(state)) for (const song of row.keys()) name(song);
  } else {
    parts.push("mix=" + [...moments(state)[0]].map(([song, weight]) => `${name(song)}:${number(weight)}`).join(","));
    if (!state.weights) parts.push(`at=${number(state.at.x)}:${number(state.at.y)}`);
  }
  const moved = state.pad.filter(({ song, x, y }) => info.songs[song].in_run === null || Math.hypot(x - info.songs[song].place[0], y - info.songs[song].place[1]) > 1e-4);
  if (moved.length) parts.push("pad=" + moved.map(({ song, x, y }) => `${name(song)}:${number(x)}:${number(y)}`).join(","));
  const on = new Set(state.pad.map(({ song }) => song));
  const off = info.onPad.filter((song) => !on.has(song));
  if (off.length) parts.push("off=" + off.map(name).join(","));
  const factors = Object.entries(state.factors);
  if (factors.length) parts.push("factors=" + factors.map(([factor, song]) => `${factor}:${name(song)}`).join(","));
  if (state.noise) parts.push(`noise=${number(state.noise)}`);
  if (state.noise || state.random) parts.push(`seed=${state.seed}`);
  parts.push(`seconds=${number(state.seconds)}`);
  if (state.key) parts.push(`key=${encodeURIComponent(state.key)}`);
  parts.push(`run=${info.fingerprint}`);
  if (used.size) parts.push("names=" + [...used].map((song) => `${song}:${encodeURIComponent(info.songs[song].name)}`).join(","));
  return "#" + parts.join("&");
}

/** The parts of a state that a fragment holds, and a remark where the run differs; songs that are not here are left out. */
export function fromFragment(hash, info) {
  const fields = new Map(hash.replace(/^#/, "").split("&").map((part) => [part.split("=")[0], part.split("=")[1] ?? ""]));
  const { find, missing } = finder(fields, info);
  const rows = (name) =>
    (fields.get(name) || "").split(",").filter(Boolean).map((part) => part.split(":").map(Number)).filter((row) => row.every(Number.isFinite));
  const found = (name, length) => rows(name).filter((row) => row.length === length).map(([song, ...rest]) => [find(song), ...rest]).filter(([song]) => song !== null);
  const inside = (x) => Math.min(1, Math.max(0, x));
  const places = (name) => rows(name).filter((row) => row.length === 2).map(([x, y]) => ({ x: inside(x), y: inside(y) }));
  const state = {};
  const moved = new Map(found("pad", 3).map(([song, x, y]) => [song, { song, x: inside(x), y: inside(y) }]));
  const off = new Set(found("off", 1).map(([song]) => song));
  const mix = found("mix", 2).filter(([, weight]) => weight > 0).slice(0, info.limits.songs);
  if (mix.length) state.weights = normal(mix);
  const shown = [...new Set([...info.onPad, ...moved.keys(), ...mix.map(([song]) => song)])].filter((song) => !off.has(song));
  if (shown.length) state.pad = shown.map((song) => moved.get(song) ?? { song, x: info.songs[song].place[0], y: info.songs[song].place[1] });
  const at = places("at");
  if (at.length) state.at = at[0];
  if (at.length && !missing.size) state.weights = null;
  if (places("path").length > 1) state.path = places("path").slice(0, 256);
  if (fields.has("random")) state.random = true;
  for (const [name, low, high] of [["noise", 0, 4], ["seed", 0, 2 ** 32 - 1], ["seconds", 1, info.limits.seconds]]) {
    const value = fields.get(name) ? Number(fields.get(name)) : NaN;
    if (value >= low && value <= high) state[name] = name === "seed" ? Math.floor(value) : value;
  }
  const factors = (fields.get("factors") || "").split(",").map((part) => part.split(":")).filter(([factor, song]) => info.factors.includes(factor) && song);
  state.factors = Object.fromEntries(factors.map(([factor, song]) => [factor, find(Number(song))]).filter(([, song]) => song !== null));
  const key = decoded(fields.get("key") ?? "");
  if (key) state.key = key;
  return { state, remark: remark(fields, missing, info) };
}

/** Finds the songs of a link by their names, or without names by their numbers; `missing` collects what is not here. */
function finder(fields, info) {
  const names = new Map((fields.get("names") ?? "").split(",").map((part) => part.split(":")).map(([song, name]) => [Number(song), decoded(name ?? "")]));
  const byName = new Map(info.songs.map(({ index, name }) => [name, index]));
  const missing = new Set();
  const find = (song) => {
    const name = names.get(song);
    if (!name || info.songs[song]?.name === name) return Number.isInteger(song) && info.songs[song] ? song : null;
    if (byName.has(name)) return byName.get(name);
    missing.add(name);
    return null;
  };
  return { find, missing };
}

function remark(fields, missing, info) {
  const gone = missing.size ? `${[...missing].join(", ")} ${missing.size > 1 ? "are" : "is"} not here` : "";
  if (!fields.get("run") || fields.get("run") === info.fingerprint) return gone && `Of the songs of this link, ${gone}`;
  return `This link was made with another run, or before songs were added to this one: ${gone || "the notes may differ"}`;
}

/** A field without its percent signs; empty where they are no text, as in a link that was cut off. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}
