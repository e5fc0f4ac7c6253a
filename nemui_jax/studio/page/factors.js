// The factors of a mix: each follows the point, or comes from one song.

import { middle } from "./names.js";

const MOST_LETTERS = 24;
const TITLES = { harmony: "Chords", melody: "The melody", rhythm: "All that accompanies", dynamics: "Loudness", tempo: "The tempo", instruments: "The instruments" };

export class Factors {
  /** `changed()` is called when a factor is set. */
  constructor(element, state, info, changed) {
    Object.assign(this, { element, state, info, changed, selects: new Map() });
    element.replaceChildren(...info.factors.map((factor) => this.row(factor)));
  }

  row(factor) {
    const label = document.createElement("label"), select = document.createElement("select");
    label.title = `${TITLES[factor]}: as the point says, or from one song`;
    label.append(Object.assign(document.createElement("span"), { textContent: factor }), select);
    select.onchange = () => {
      if (select.value) this.state.factors[factor] = +select.value;
      else delete this.state.factors[factor];
      this.changed();
    };
    this.selects.set(factor, select);
    return label;
  }

  /** Shows the state; songs that are heard now come first. */
  show(heard) {
    const rest = this.state.pad.map(({ song }) => song).filter((song) => !heard.includes(song));
    for (const [factor, select] of this.selects) {
      const chosen = this.state.factors[factor];
      const songs = [...new Set([...heard, ...(chosen === undefined ? [] : [chosen]), ...rest])];
      const shown = songs.join();
      if (select.dataset.songs !== shown && document.activeElement !== select) {
        select.dataset.songs = shown;
        select.replaceChildren(new Option("the point", ""), ...songs.map((song) => new Option(middle(this.info.short(song), MOST_LETTERS), song)));
      }
      select.value = chosen ?? "";
      select.disabled = this.state.random;
      select.parentElement.classList.toggle("set", chosen !== undefined);
    }
  }
}
