// Songs dropped on the page: played roughly at once, taught in the background, and kept in the run if that is wished.

import { bring, keep } from "./wire.js";

const WORK = { waiting: "waiting", fitting: "listening", teaching: "rough, being taught", keeping: "being kept in the run" };
const percent = (share) => `${Math.floor(share * 1000) / 10} %`;

export class Guests {
  /** `remark` is shown while there are some that are not kept. `calls`: arrived(song), changed(song), kept(), solo(song), say(text, bad). */
  constructor(element, remark, info, calls) {
    Object.assign(this, { element, remark, info, calls, mine: new Set(), known: new Map(), rows: new Map() });
  }

  /** Takes files; each is heard alone as soon as it can be played. */
  async drop(files) {
    for (const file of files) {
      const most = this.info.limits.bytes;
      try {
        if (file.size > most) throw new Error(`${file.name} is larger than ${most / 2 ** 20} MiB, the most that the studio takes`);
        const { guest, index, wrong } = await bring(file);
        if (wrong) throw new Error(wrong);
        if (index !== undefined) this.calls.solo(index);
        else if (this.known.get(guest)?.song) this.calls.solo(this.known.get(guest).index);
        else this.mine.add(guest);
      } catch (error) {
        this.calls.say(error.message, true);
      }
    }
  }

  /** Whether a song is a guest that is not played back well enough to be called learned. */
  isRough(song) {
    return [...this.known.values()].some(({ index, learned }) => index === song && !learned);
  }

  /** Takes the server's word on all guests. */
  take(guests) {
    for (const guest of guests) {
      const before = this.known.get(guest.number);
      this.known.set(guest.number, guest);
      if (guest.song) this.info.songs[guest.index] = guest.song;
      if (before && guest.wrong && guest.wrong !== before.wrong) this.calls.say(`${guest.name}: ${guest.wrong}`, true);
      if (guest.song && !before?.song) this.calls.arrived(guest.index, this.mine.delete(guest.number));
      else if (before?.song && guest.note_f1 !== before.note_f1) {
        this.calls.changed(guest.index);
        this.calls.say(guest.learned ? `${guest.name}: learned, ${percent(guest.note_f1)} of its notes come back` : `${guest.name}: not learned, it stays rough`, !guest.learned);
      }
      if (before && guest.kept && !before.kept) this.calls.kept(guest);
    }
    this.element.hidden = !this.known.size;
    this.remark.hidden = ![...this.known.values()].some(({ song, kept }) => song && !kept);
    this.show();
  }

  show() {
    for (const guest of this.known.values()) {
      if (!this.rows.has(guest.number)) this.rows.set(guest.number, this.row(guest));
      const { name, text, bar, button } = this.rows.get(guest.number);
      name.disabled = guest.index === null;
      text.textContent = this.state(guest);
      bar.hidden = !guest.work;
      if (guest.work === "waiting") bar.removeAttribute("value");
      else bar.value = guest.done;
      button.hidden = !guest.learned || guest.kept || !!guest.work;
    }
  }

  state(guest) {
    if (guest.work) return WORK[guest.work];
    if (guest.kept) return "kept in the run";
    if (guest.index === null) return guest.wrong || "not learned";
    return guest.learned ? `learned, ${percent(guest.note_f1)}` : `rough, ${percent(guest.note_f1)} of its notes`;
  }

  row(guest) {
    const item = document.createElement("li"), bar = Object.assign(document.createElement("progress"), { max: 1 });
    const name = Object.assign(document.createElement("button"), { textContent: guest.name, title: `Hear ${guest.name} alone`, className: "name" });
    const text = document.createElement("span");
    const button = Object.assign(document.createElement("button"), { textContent: "Keep", title: `Add ${guest.name} to the run` });
    bar.setAttribute("aria-label", `Progress of ${guest.name}`);
    button.setAttribute("aria-label", `Keep ${guest.name} in the run`);
    name.onclick = () => this.calls.solo(this.known.get(guest.number).index);
    button.onclick = () => keep(guest.number).catch((error) => this.calls.say(error.message, true));
    item.append(name, text, button, bar);
    this.element.append(item);
    return { name, text, bar, button };
  }
}
