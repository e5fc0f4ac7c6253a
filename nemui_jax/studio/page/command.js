// The command that writes the same music, on the command line or, for what that cannot say, in Python.

import { toRecipe } from "./weights.js";

const quote = (text) => (/^[\w.:@%+=/,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);
const python = (value) => JSON.stringify(value);

/** A command; a `#` remark says which songs the run has to be given first. `shift` is that of the key. */
export function toCommand(state, info, shift) {
  const recipe = toRecipe(state, shift, info.limits.songs);
  const songs = state.random ? [] : [...new Set([...recipe.songs, ...Object.values(state.factors)])];
  const guests = songs.filter((song) => info.songs[song].in_run === null);
  const known = info.songs.filter((song) => song.in_run !== null).length;
  const number = (song) => info.songs[song].in_run ?? known + guests.indexOf(song);
  const remark = guests.length ? `  # after Keep: ${guests.map((song) => info.songs[song].name).join(", ")}` : "";
  const single = state.random || (!state.path && (!state.noise || recipe.songs.length === 1));
  return (single ? onCommandLine : inPython)(state, recipe, info.run, number) + remark;
}

function onCommandLine(state, recipe, run, number) {
  const words = ["python run.py sample", `--run ${run}`];
  if (state.random) words.push("--random", `--seed ${state.drawn?.seed ?? state.seed}`);
  else if (state.noise) words.push(`--perturb ${quote(`${number(recipe.songs[0])}:${+state.noise.toFixed(4)}`)}`, `--seed ${state.seed}`);
  else words.push(`--mix ${quote(recipe.songs.map((song, i) => `${number(song)}:${recipe.weights[0][i]}`).join(","))}`);
  if (!state.random) for (const [factor, song] of Object.entries(state.factors)) words.push(`--${factor} ${number(song)}`);
  words.push(`--seconds ${+state.seconds.toFixed(4)}`);
  if (state.key) words.push(`--key ${quote(state.key)}`);
  return words.join(" ");
}

function inPython(state, recipe, run, number) {
  const weights = recipe.songs.map((_, i) => recipe.weights.map((row) => row[i]));
  const options = [`seconds=${state.seconds}`, `seed=${state.seed}`];
  if (state.key) options.push(`key=${python(state.key)}`);
  const factors = Object.entries(state.factors).map(([factor, song]) => `${factor}=${number(song)}`);
  if (factors.length) options.push(`factors=Factors(${factors.join(", ")})`);
  const lines = [
    "import numpy as np",
    "from nemui_jax.api import Factors, Options, Plan, load",
    `plan = Plan((${recipe.songs.map(number).join(", ")},), np.array(${python(weights)}), {}, ${state.noise}, ${state.seed})`,
    `next(load(${python(run.replace(/^'|'$/g, ""))}).play([plan], Options(${options.join(", ")}))).write("piece.mid")`,
  ];
  return `python -c '${lines.join("; ").replaceAll("'", `'"'"'`)}'`;
}

