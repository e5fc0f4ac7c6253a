// A state as the fragment of a link, as a recipe for the server, and as a command line.
//
// state: { pad: [{song, x, y}], at: {x, y}, weights: Map | null, path: [{x, y}] | null, random, noise, seed, seconds, key }
// `weights` are those set by hand; null: by distance.

const number = (value, digits = 4) => String(+value.toFixed(digits));
const NEAREST = 4; // songs that a place on the pad is made of, at most
const TOUCH = 0.015; // nearer than this to a song is the song itself

/** Weights at a place by distance (Franke and Little's): smooth as songs come into reach and go. A Map, sum 1. */
export function weightsAt(place, pad) {
  const near = pad
    .map(({ song, x, y }) => ({ song, distance: Math.hypot(x - place.x, y - place.y) }))
    .sort((a, b) => a.distance - b.distance);
  if (!near.length) return new Map();
  if (near[0].distance < TOUCH || near.length === 1) return new Map([[near[0].song, 1]]);
  const reach = near.length > NEAREST ? near[NEAREST].distance : 2 * near.at(-1).distance;
  const pairs = near
    .slice(0, NEAREST)
    .map(({ song, distance }) => [song, ((reach - distance) / (reach * distance)) ** 2]);
  return normal(pairs, 0.004);
}

/** Pairs of song and weight as a Map of sum 1, without the faintest. */
export function normal(pairs, least = 0) {
  const sum = pairs.reduce((total, [, weight]) => total + weight, 0) || 1;
  const kept = pairs.map(([song, weight]) => [song, weight / sum]).filter(([, weight]) => weight > least);
  const rest = kept.reduce((total, [, weight]) => total + weight, 0) || 1;
  return new Map(kept.map(([song, weight]) => [song, weight / rest]));
}

/** `count` places evenly spread along a path. */
export function along(path, count) {
  const lengths = [0];
  for (let i = 1; i < path.length; i++)
    lengths.push(lengths[i - 1] + Math.hypot(path[i].x - path[i - 1].x, path[i].y - path[i - 1].y));
  const total = lengths.at(-1) || 1;
  let leg = 0;
  return Array.from({ length: count }, (_, i) => {
    const want = (total * i) / (count - 1);
    while (leg < path.length - 2 && lengths[leg + 1] < want) leg++;
    const share = (want - lengths[leg]) / (lengths[leg + 1] - lengths[leg] || 1);
    const [from, to] = [path[leg], path[leg + 1] ?? path[leg]];
    return { x: from.x + (to.x - from.x) * share, y: from.y + (to.y - from.y) * share };
  });
}

/** What a state sounds like over time: Maps of weights at moments evenly spread over the piece. */
export function moments(state) {
  if (state.random) return state.drawn ?? [new Map()];
  if (state.path) return along(state.path, 96).map((place) => weightsAt(place, state.pad));
  return [state.weights ?? weightsAt(state.at, state.pad)];
}

/** The recipe that the server understands. */
export function toRecipe(state, shift) {
  const common = { seconds: state.seconds, seed: state.seed, noise: state.noise, shift };
  if (state.random) return { ...common, noise: 0, random: true };
  const rows = moments(state);
  const total = new Map();
  for (const row of rows) for (const [song, weight] of row) total.set(song, (total.get(song) ?? 0) + weight);
  const songs = [...total.keys()].sort((a, b) => total.get(b) - total.get(a)).slice(0, 8).sort((a, b) => a - b);
  const weights = rows.map((row) => songs.map((song) => +(row.get(song) ?? 0).toFixed(5)));
  for (const row of weights) if (!row.some((weight) => weight > 0)) row[0] = 1;
  return { ...common, songs, weights };
}

export function toFragment(state) {
  const parts = [];
  if (state.random) parts.push("random");
  else if (state.path) parts.push("path=" + along(state.path, Math.min(48, Math.max(2, state.path.length))).map(({ x, y }) => `${number(x)}:${number(y)}`).join(","));
  else {
    parts.push("mix=" + [...moments(state)[0]].map(([song, weight]) => `${song}:${number(weight)}`).join(","));
    if (!state.weights) parts.push(`at=${number(state.at.x)}:${number(state.at.y)}`);
  }
  parts.push("pad=" + state.pad.map(({ song, x, y }) => `${song}:${number(x)}:${number(y)}`).join(","));
  if (state.noise) parts.push(`noise=${number(state.noise)}`);
  if (state.noise || state.random) parts.push(`seed=${state.seed}`);
  parts.push(`seconds=${number(state.seconds)}`);
  if (state.key) parts.push(`key=${encodeURIComponent(state.key)}`);
  return "#" + parts.join("&");
}

/** The parts of a state that a fragment holds; what does not fit the songs there are is left out. */
export function fromFragment(hash, info) {
  const fields = new Map(hash.replace(/^#/, "").split("&").map((part) => [part.split("=")[0], part.split("=")[1] ?? ""]));
  const rows = (name) =>
    (fields.get(name) || "").split(",").map((part) => part.split(":").map(Number)).filter((row) => row.every(Number.isFinite));
  const known = ([song]) => Number.isInteger(song) && song >= 0 && song < info.songs.length;
  const inside = (x) => Math.min(1, Math.max(0, x));
  const places = (name) => rows(name).filter((row) => row.length === 2).map(([x, y]) => ({ x: inside(x), y: inside(y) }));
  const state = {};
  const pad = rows("pad").filter((row) => row.length === 3 && known(row)).map(([song, x, y]) => ({ song, x: inside(x), y: inside(y) }));
  if (pad.length) state.pad = pad.filter(({ song }, i) => pad.findIndex((other) => other.song === song) === i).slice(0, 24);
  const mix = rows("mix").filter((row) => row.length === 2 && known(row) && row[1] > 0).slice(0, 8);
  if (mix.length) state.weights = normal(mix);
  const at = places("at");
  if (at.length && state.pad) Object.assign(state, { at: at[0], weights: null });
  if (places("path").length > 1) state.path = places("path").slice(0, 256);
  if (fields.has("random")) state.random = true;
  for (const [name, low, high] of [["noise", 0, 4], ["seed", 0, 2 ** 32 - 1], ["seconds", 1, info.limits.seconds]]) {
    const value = fields.get(name) ? Number(fields.get(name)) : NaN;
    if (value >= low && value <= high) state[name] = name === "seed" ? Math.floor(value) : value;
  }
  const key = decoded(fields.get("key") ?? "");
  if (key) state.key = key;
  return state;
}

/** A field without its percent signs; empty where they are no text, as in a link that was cut off. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

/** The command that writes the same music; a `#` remark says where the command line has no such thing. */
export function toCommand(state, info) {
  const name = (song) => (info.songs[song].added ? quote(info.songs[song].name + ".mid") : String(song));
  const words = ["python run.py sample", `--run ${info.run}`];
  let remark = "";
  const rows = moments(state);
  const heard = [...rows[0]].sort((a, b) => a[0] - b[0]);
  if (state.random) words.push("--random", `--seed ${state.seed}`);
  else if (state.path) {
    const leaders = rows.map((row) => [...row].reduce((a, b) => (b[1] > a[1] ? b : a))[0]);
    const stops = leaders.filter((song, i) => song !== leaders[i - 1]);
    if (stops.length > 1) words.push(`--morph ${stops.map(name).join(",")}`);
    else words.push(`--song ${name(stops[0])}`);
    remark = "the drawn path by its nearest songs";
  } else if (state.noise && heard.length === 1) words.push(`--perturb ${name(heard[0][0])}:${number(state.noise)}`, `--seed ${state.seed}`);
  else {
    words.push(`--mix ${heard.map(([song, weight]) => `${name(song)}:${number(weight)}`).join(",")}`);
    if (state.noise) remark = "without its variation";
  }
  words.push(`--seconds ${number(state.seconds)}`);
  if (state.key) words.push(`--key ${quote(state.key)}`);
  return words.join(" ") + (remark ? `  # ${remark}` : "");
}

const quote = (text) => (/^[\w.:@%+=/-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);
