// All songs, to be found by name: heard alone, or added to the mix.

import { ink } from "./colour.js";
import { middle } from "./names.js";
import { clock } from "./roll.js";

const MOST_ROWS = 100, MOST_LETTERS = 30;

export class SongList {
  /** `calls`: solo(song), add(song), found(songs): a set of them, empty where nothing is looked for. */
  constructor(element, search, info, calls) {
    Object.assign(this, { element, search, info, calls });
    search.oninput = () => this.show();
    search.onkeydown = (event) => {
      if (event.key === "Enter") this.element.querySelector("button")?.click();
    };
    this.details = search.closest("details");
    this.details.ontoggle = () => {
      this.show();
      if (this.details.open) this.details.scrollIntoView({ block: "nearest" });
    };
  }

  show() {
    if (!this.details.open) return this.calls.found(new Set());
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.info.songs.filter(({ name }) => words.every((word) => name.toLowerCase().includes(word)));
    this.calls.found(new Set(words.length ? found.map(({ index }) => index) : []));
    this.element.replaceChildren(...found.slice(0, MOST_ROWS).map((song) => this.row(song)));
  }

  row({ index, name, key, seconds }) {
    const item = document.createElement("li"), hear = document.createElement("button"), add = document.createElement("button");
    item.style.setProperty("--ink", ink(index));
    hear.append(
      document.createElement("i"),
      Object.assign(document.createElement("span"), { textContent: middle(this.info.short(index), MOST_LETTERS), title: name }),
      Object.assign(document.createElement("small"), { textContent: `${key}  ${clock(seconds)}` }),
    );
    hear.setAttribute("aria-label", `Hear ${name} alone`);
    hear.onclick = () => this.calls.solo(index);
    add.textContent = "+";
    add.title = "Add it to the mix";
    add.setAttribute("aria-label", `Add ${name} to the mix`);
    add.onclick = () => this.calls.add(index);
    item.append(hear, add);
    return item;
  }
}
