// The list of a piece's parts: instrument, colour, mute and solo. A piece of one part has none.

import { partColour } from "./colour.js";

export class PartList {
  /** `changed()` is called when parts are muted or heard again. */
  constructor(element, music, changed) {
    Object.assign(this, { element, music, changed, shown: "" });
  }

  /** Shows the parts of the music; nothing is made anew while they are the same. */
  show(always = false) {
    const { parts } = this.music;
    this.element.hidden = parts.length < 2;
    const shown = JSON.stringify(parts.map(({ hue, instrument, name }) => [hue, instrument, name]));
    if (shown !== this.shown || always) this.element.replaceChildren(...parts.map((part) => this.row(part)));
    this.shown = shown;
    this.mark();
  }

  row(part) {
    const item = document.createElement("li");
    item.style.setProperty("--ink", partColour(part));
    const label = Object.assign(document.createElement("span"), { textContent: part.instrument, title: part.name ? `${part.instrument}: ${part.name}` : part.instrument });
    item.append(document.createElement("i"), label, this.button(part, "muted", "M", "Mute"), this.button(part, "solo", "S", "Solo"));
    return item;
  }

  button(part, what, letter, word) {
    const button = Object.assign(document.createElement("button"), { textContent: letter, title: `${word} ${part.instrument}` });
    button.setAttribute("aria-label", `${word} ${part.instrument}`);
    button.dataset.what = what;
    button.onclick = () => {
      part[what] = !part[what];
      this.music.mute();
      this.mark();
      this.changed();
    };
    return button;
  }

  /** Shows which parts are muted and which play alone. */
  mark() {
    this.music.parts.forEach((part, i) => {
      const item = this.element.children[i];
      item.classList.toggle("off", !part.heard);
      for (const button of item.querySelectorAll("button")) button.setAttribute("aria-pressed", String(part[button.dataset.what]));
    });
  }
}
