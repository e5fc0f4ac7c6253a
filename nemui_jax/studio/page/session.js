// What the page plays: its state, and all that changes it.

import { setPlace } from "./colour.js";
import { toCommand } from "./command.js";
import { fromFragment, toFragment } from "./link.js";
import { describe, fileName } from "./names.js";
import { centre, moments, normal, toRecipe } from "./weights.js";

export const TONICS = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"];
const MOST_ON_PAD = 300;

export class Session {
  /** `calls`: changed(began), moved() where songs came to the pad or went, share() of the piece that is played,
   * point() where the point stands. */
  constructor(info, calls) {
    Object.assign(this, { info, calls, waypoints: [] });
    info.onPad = firstOnPad(info);
    for (const { index, place: [x, y] } of info.songs) setPlace(index, { x, y });
    this.state = this.fresh();
    this.weigh();
  }

  fresh() {
    const { info } = this;
    return {
      pad: info.onPad.map((song) => this.home(song)),
      at: centre(info.first.map((song) => ({ ...this.home(song), weight: 1 }))),
      weights: normal(info.first.map((song) => [song, 1])),
      path: null, random: false, drawn: null, noise: 0, seed: 0, seconds: info.seconds, key: "", factors: {},
    };
  }

  home(song) {
    const [x, y] = this.info.songs[song].place;
    return { song, x, y };
  }

  /** Works out the weights at moments of the piece. */
  weigh() {
    this.rows = moments(this.state);
  }

  /** The weights at a share of the piece. */
  weightsAt(share) {
    const { rows } = this;
    return rows[Math.min(rows.length - 1, Math.max(0, Math.round(share * (rows.length - 1))))];
  }

  /** The state changed, as the hand moved at `began`. */
  changed(began) {
    this.weigh();
    this.calls.changed(began);
  }

  set(values, began) {
    Object.assign(this.state, values);
    this.changed(began);
  }

  /** Leaves a path, a random song and weights set by hand; the point stays where it is. */
  still() {
    const { state } = this;
    if (state.path || state.random || state.weights) state.at = this.calls.point() ?? state.at;
    Object.assign(state, { path: null, random: false, drawn: null, weights: null });
  }

  solo(song) {
    this.addToPad(song);
    const { x, y } = this.state.pad.find((one) => one.song === song);
    this.still();
    this.set({ at: { x, y }, weights: new Map([[song, 1]]) });
  }

  addToPad(song) {
    if (this.state.pad.some((one) => one.song === song)) return;
    this.state.pad.push(this.home(song));
    this.calls.moved();
  }

  /** Gives a song as large a share as the others have. */
  addToMix(song) {
    this.addToPad(song);
    this.setWeight(song, 1 / (this.weightsAt(this.calls.share()).size + 1));
  }

  remove(song) {
    const { state } = this;
    if (state.pad.length < 2) return;
    state.pad = state.pad.filter((one) => one.song !== song);
    for (const [factor, chosen] of Object.entries(state.factors)) if (chosen === song) delete state.factors[factor];
    if (state.weights?.delete(song)) state.weights = state.weights.size ? normal([...state.weights]) : null;
    if (state.random) this.still();
    this.calls.moved();
    this.changed();
  }

  /** Gives a song a weight; the others share the rest as before. */
  setWeight(song, weight, began) {
    const others = [...this.weightsAt(this.calls.share())].filter(([other, value]) => other !== song && value > 0);
    const sum = others.reduce((total, [, value]) => total + value, 0);
    if (!others.length && weight < 1) {
      const other = this.state.pad.find((one) => one.song !== song);
      if (!other) return;
      others.push([other.song, 1]);
    }
    const rest = others.map(([other, value]) => [other, ((1 - weight) * value) / (sum || 1)]);
    this.still();
    this.set({ weights: normal([[song, weight], ...rest], 1e-4) }, began);
  }

  /** Plays a path that was drawn. */
  follow(path) {
    this.still();
    this.set({ path });
  }

  /** Adds a place to a path; returns how many there are. The point stays there. */
  addWaypoint(at) {
    this.waypoints = [...this.waypoints, at];
    if (this.waypoints.length > 1) Object.assign(this.state, { path: this.waypoints, weights: null, random: false });
    this.changed();
    this.state.at = at;
    return this.waypoints.length;
  }

  vary() {
    const { state } = this;
    if (state.random) this.still();
    this.set({ seed: state.seed + 1, noise: state.noise || 0.25 });
  }

  random() {
    this.still();
    this.set({ random: true, seed: 1 + Math.floor(Math.random() * 9999), drawn: null });
  }

  /** What a random song was made of, as the server says. */
  drawn(drawn) {
    this.state.drawn = drawn;
    drawn.songs.forEach((song) => this.addToPad(song));
    this.weigh();
  }

  /** Back to the point: no path, no variation, no factors. */
  clear() {
    this.still();
    this.waypoints = [];
    this.set({ noise: 0, factors: {} });
  }

  /** Puts an earlier state back. */
  putBack(state) {
    Object.assign(this.state, state);
    this.waypoints = [];
    this.calls.moved();
    this.changed();
  }

  /** Takes the state of a link's fragment; returns what is to be said of it. */
  open(fragment) {
    const { state: found, remark } = fromFragment(fragment, this.info);
    Object.assign(this.state, this.fresh(), found);
    if (found.at && !found.weights) this.state.weights = null;
    if (!TONICS.includes(this.state.key)) this.state.key = "";
    this.weigh();
    return remark;
  }

  get shift() {
    return this.state.key ? ((6 - TONICS.indexOf(this.state.key) + 12) % 12) - 6 : null;
  }

  get recipe() {
    return toRecipe(this.state, this.shift, this.info.limits.songs);
  }

  get command() {
    return toCommand(this.state, this.info, this.shift);
  }

  get fragment() {
    return toFragment(this.state, this.info);
  }

  /** What the piece is made of, in words. */
  get words() {
    return describe(this.state, this.rows, this.info.short);
  }

  /** What a saved page says of the piece. */
  get about() {
    const { state, info } = this;
    const settings = [state.key && `in ${state.key}`, state.noise && !state.random && `variation ${state.seed}, ${Math.round(state.noise * 100)} %`];
    const fixed = Object.entries(state.factors).map(([factor, song]) => `${factor} of ${info.short(song)}`);
    const lines = [...this.words, ...settings, ...fixed].filter(Boolean);
    return { title: fileName(state, this.rows, info.short), lines, command: this.command };
  }
}

/** The songs of the run that stand on the pad from the beginning: all, or of very many some, evenly chosen. */
function firstOnPad(info) {
  const songs = info.songs.filter(({ in_run }) => in_run !== null).map(({ index }) => index);
  if (songs.length <= MOST_ON_PAD) return songs;
  const chosen = Array.from({ length: MOST_ON_PAD }, (_, i) => songs[Math.floor((i * songs.length) / MOST_ON_PAD)]);
  return [...new Set([...info.first, ...chosen])];
}
