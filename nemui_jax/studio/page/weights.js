// Weights of songs: at a place on the pad, along a path, and of a state over time; and the recipe for the server.
//
// state: { pad: [{song, x, y}], at: {x, y}, weights: Map | null, path: [{x, y}] | null, random, drawn, noise, seed, seconds,
// key, factors: {factor: song} }. `weights` are those set by hand; null: by distance. `drawn` is what the server says of a
// random song: { songs, seed }, of which the first gives form and harmony and the others play.

const NEAREST = 3; // songs that a place on the pad is made of, at most
const TOUCH = 0.012; // nearer than this to a song is the song itself
const MOMENTS = 33; // at which the weights of a path are given
const STEPS = 256; // of a path that the point goes along
const FAINTEST = 0.01;

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
  return normal(pairs, FAINTEST);
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
  if (state.random) return [normal((state.drawn?.songs ?? []).slice(1).map((song) => [song, 1]))];
  if (state.path) return along(state.path, MOMENTS).map((place) => weightsAt(place, state.pad));
  return [state.weights ?? weightsAt(state.at, state.pad)];
}

/** The middle of places { x, y, weight }. */
export function centre(places) {
  const sum = places.reduce((total, { weight }) => total + weight, 0);
  const mean = (name) => places.reduce((total, place) => total + place[name] * place.weight, 0) / sum;
  return { x: mean("x"), y: mean("y") };
}

/** Where the point is, at a share of the piece: on its path, where it was put, or between the songs that are heard. */
export function pointOf(state, weights, share) {
  if (state.path) return along(state.path, STEPS + 1)[Math.round(STEPS * Math.min(1, share))];
  const heard = state.pad.map((place) => ({ ...place, weight: weights.get(place.song) ?? 0 })).filter(({ weight }) => weight);
  return (state.weights || state.random) && heard.length ? centre(heard) : state.at;
}

/** The recipe that the server understands. `shift`: semitones to the common key, or null. */
export function toRecipe(state, shift, limit) {
  const common = { seconds: state.seconds, seed: state.seed, noise: state.noise, shift };
  if (state.random) return { ...common, noise: 0, random: true };
  const rows = moments(state);
  const total = new Map();
  for (const row of rows) for (const [song, weight] of row) total.set(song, (total.get(song) ?? 0) + weight);
  const songs = [...total.keys()].sort((a, b) => total.get(b) - total.get(a)).slice(0, limit).sort((a, b) => a - b);
  const weights = rows.map((row) => songs.map((song) => +(row.get(song) ?? 0).toFixed(3)));
  for (const row of weights) if (!row.some((weight) => weight > 0)) row[0] = 1;
  return { ...common, songs, weights, factors: state.factors };
}
