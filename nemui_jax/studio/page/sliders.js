// The weights of the songs that are heard, and what the songs of a random one do.

import { ink } from "./colour.js";
import { middle } from "./names.js";

const MOST_LETTERS = 26;

export class Sliders {
  /** `calls`: weigh(song, weight, began), remove(song). */
  constructor(element, info, calls) {
    Object.assign(this, { element, info, calls, rows: new Map(), shown: "", sliding: false });
  }

  /** Shows the songs of a state; their weights over time are `rows`. Rows stay while one of them is moved. */
  show(state, rows, always = false) {
    if (this.sliding) return;
    const songs = state.random ? [...new Set(state.drawn?.songs ?? [])] : [...new Set(rows.flatMap((row) => [...row.keys()]))].sort((a, b) => a - b);
    const shown = JSON.stringify([songs, state.random]);
    if (shown === this.shown && !always) return;
    this.shown = shown;
    this.rows.clear();
    this.element.replaceChildren(...songs.map((song) => (state.random ? this.role(song, state.drawn.songs) : this.row(song))));
  }

  label(song, tag) {
    const { name } = this.info.songs[song];
    return Object.assign(document.createElement(tag), { textContent: middle(this.info.short(song), MOST_LETTERS), title: name });
  }

  item(song, ...children) {
    const item = document.createElement("li");
    item.style.setProperty("--ink", ink(song));
    item.append(document.createElement("i"), ...children);
    return item;
  }

  row(song) {
    const { name } = this.info.songs[song];
    const label = Object.assign(this.label(song, "label"), { htmlFor: `weight-${song}` });
    const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 1, step: 0.01, id: `weight-${song}` });
    const output = document.createElement("output");
    const off = Object.assign(document.createElement("button"), { textContent: "×", title: "Take it out of the mix" });
    off.setAttribute("aria-label", `Take ${name} out of the mix`);
    off.onclick = () => {
      const next = [...this.rows.keys()].find((other) => other !== song);
      this.calls.remove(song);
      (this.rows.get(next) ?? [...this.rows.values()][0])?.item.querySelector("button").focus();
    };
    input.oninput = (event) => {
      this.sliding = true;
      this.calls.weigh(song, +input.value, event.timeStamp);
    };
    input.onchange = () => (this.sliding = false);
    const item = this.item(song, label, input, output, off);
    this.rows.set(song, { input, output, item });
    return item;
  }

  /** A song of a random one: the first gives form and harmony, the others play. */
  role(song, [form, ...players]) {
    const roles = [song === form && "form and harmony", players.includes(song) && "plays"].filter(Boolean);
    const item = this.item(song, this.label(song, "span"), Object.assign(document.createElement("em"), { textContent: roles.join(", ") }));
    item.className = "role";
    return item;
  }

  /** Sets the weights of the moment. */
  set(weights) {
    for (const [song, { input, output, item }] of this.rows) {
      const weight = weights.get(song) ?? 0;
      if (document.activeElement !== input || !this.sliding) input.value = weight;
      input.setAttribute("aria-valuetext", `${Math.round(weight * 100)} %`);
      output.textContent = `${Math.round(weight * 100)} %`;
      item.classList.toggle("off", !weight);
    }
  }
}
