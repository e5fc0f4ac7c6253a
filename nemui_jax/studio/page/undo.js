// What the state was before: each change that stands for a moment can be taken back, and made again.

const QUIET = 400; // milliseconds until a change is one of its own
const MOST = 200;
const text = (state) => JSON.stringify(state, (_, value) => (value instanceof Map ? [...value] : value));

export class Undo {
  /** `read()` gives the state, without what follows from it; `restore(state)` makes it the state again. */
  constructor(read, restore) {
    Object.assign(this, { read, restore, past: [structuredClone(read())], future: [], pressed: false });
    addEventListener("pointerdown", () => (this.pressed = true), true);
    for (const type of ["pointerup", "pointercancel"]) addEventListener(type, () => (this.pressed = false), true);
  }

  /** The state has changed; all that changes while a pointer is pressed is one step. */
  note() {
    clearTimeout(this.later);
    this.later = setTimeout(() => (this.pressed ? this.note() : this.commit()), QUIET);
  }

  /** Makes what has changed so far a step. */
  commit() {
    clearTimeout(this.later);
    const now = this.read();
    if (text(now) === text(this.past.at(-1))) return;
    this.past.push(structuredClone(now));
    if (this.past.length > MOST) this.past.shift();
    this.future = [];
  }

  back() {
    this.commit();
    if (this.past.length < 2) return false;
    this.future.push(this.past.pop());
    this.restore(structuredClone(this.past.at(-1)));
    return true;
  }

  forward() {
    if (!this.future.length) return false;
    this.past.push(this.future.pop());
    this.restore(structuredClone(this.past.at(-1)));
    return true;
  }
}
