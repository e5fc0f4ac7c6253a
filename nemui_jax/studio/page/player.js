// Music in blocks, and the timer that hands it to a voice a little ahead of time.
//
// A block that has begun is played as it stood then; the next one is taken as it stands when its turn comes. So music
// may change at any time, and is heard to change at the next block, without a gap.

import { REST } from "./voice.js";

const TICK = 25; // milliseconds
export const AHEAD = 0.25; // seconds; more where the page is hidden, because its timers are slow then
const AHEAD_HIDDEN = 1.6;
const GRACE = 0.03; // a note may stand a little before its block
const OPENING = 6, FADE = 12; // seconds of a beginning, and until it is no longer played louder than the rest
const LOUD = 0.55; // mean power of notes, that of the loudest being 1, which is heard well: about -20 dB of full scale
const MOST_LIFT = 2.8; // by which quiet beginnings are played louder

export class Music {
  constructor(block) {
    this.block = block; // seconds
    this.blocks = [];
    this.count = 1;
    this.parts = []; // that are listed; the same objects, in the same colours, as long as the instruments are the same
    this.order = []; // those of the piece, as the server numbers them
    this.known = new Map();
  }

  /** Takes a piece's parts from the server. An opening may lack some, so those that were listed stay until all come. */
  head(parts, isOpening = false) {
    const seen = new Map();
    this.order = parts.map((part) => {
      const name = `${part.instrument}|${part.program}|${part.name}`;
      seen.set(name, (seen.get(name) ?? 0) + 1);
      const key = `${name}|${seen.get(name)}`;
      if (!this.known.has(key)) this.known.set(key, { ...part, muted: false, solo: false, heard: true });
      return Object.assign(this.known.get(key), part);
    });
    this.parts = isOpening ? [...new Set([...this.parts, ...this.order])] : this.order;
    this.colour();
    this.mute();
  }

  /** Gives each part that is listed a hue of its own, by a number; parts keep theirs where they can. */
  colour() {
    const taken = new Map();
    for (const part of this.parts) if (!taken.has(part.hue)) taken.set(part.hue, part);
    let free = 0;
    for (const part of this.parts) {
      if (part.hue !== undefined && taken.get(part.hue) === part) continue;
      while (taken.has(free)) free++;
      taken.set((part.hue = free), part);
    }
  }

  /** Works out which parts are heard: those with a solo, or, if there is none, those that are not muted. */
  mute() {
    const solos = this.parts.some(({ solo }) => solo);
    for (const part of this.parts) part.heard = solos ? part.solo : !part.muted;
  }

  get seconds() {
    return this.count * this.block;
  }

  /** Where the first note is, less a breath: nobody waits for a rest at the beginning. */
  get firstOnset() {
    const first = this.blocks.find((block) => !block || block.notes.length);
    return Math.max(0, (first?.notes[0].onset ?? 0) - 0.05);
  }

  /** By how much a moment is played louder: pieces that begin so quietly that nobody would hear it begin louder. */
  lift(seconds) {
    const begin = this.firstOnset, faded = Math.min(1, Math.max(0, (seconds - begin - OPENING) / FADE));
    if (faded === 1) return 1;
    this.opening ??= clamp(Math.sqrt(LOUD / this.power(begin, begin + OPENING)), 1, MOST_LIFT);
    return this.opening ** (1 - faded);
  }

  /** Mean power of the notes of a passage, as loud as a voice makes them. */
  power(from, to) {
    const blocks = this.blocks.slice(Math.floor(from / this.block), Math.ceil(to / this.block));
    const of = ({ onset, end, velocity }) => (velocity / 127) ** 3.1 * Math.min(end - onset, this.block);
    return blocks.reduce((sum, block) => sum + (block?.notes ?? []).reduce((total, note) => total + of(note), 0), 1e-6) / (to - from);
  }

  /** Takes a stretch of music from the server. */
  set({ from, to, blocks, notes, controls }) {
    const parts = this.order;
    this.opening = null;
    this.count = blocks;
    this.blocks.length = blocks;
    const fresh = Array.from({ length: to - from }, (_, i) => ({ notes: [], controls: [], parts }));
    const at = (ms) => fresh[Math.min(to - 1, Math.max(from, Math.floor(ms / 1000 / this.block))) - from];
    for (let i = 0; i < notes.length; i += 5) {
      const [onset, end, pitch, velocity, part] = notes.slice(i, i + 5);
      at(onset).notes.push({ onset: onset / 1000, end: end / 1000, pitch, velocity, part: parts[part] });
    }
    for (let i = 0; i < controls.length; i += 4)
      at(controls[i]).controls.push({ time: controls[i] / 1000, part: parts[controls[i + 1]], controller: controls[i + 2], value: controls[i + 3] });
    let state = parts.flatMap((part) => REST.map(([controller, value]) => ({ part, controller, value })));
    fresh.forEach((one, i) => {
      one.notes.sort((a, b) => a.onset - b.onset);
      const time = (from + i) * this.block;
      const before = state.map((control) => ({ ...control, time }));
      state = inForce(state, one.controls);
      one.controls.unshift(...before);
      this.blocks[from + i] = one;
    });
  }
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** The newest of each part's controls, from those in force before and those that come after. */
function inForce(before, controls) {
  if (!controls.length) return before;
  const newest = new Map(before.map((one) => [one.part, new Map()]));
  for (const one of [...before, ...controls]) newest.get(one.part).set(one.controller, one);
  return [...newest.values()].flatMap((some) => [...some.values()]);
}

export class Player {
  constructor(music, voice) {
    Object.assign(this, { music, voice, sink: voice, playing: false, cursor: 0, loop: null, repeat: false });
    this.starts = []; // where the music stood at times of the audio clock
    this.offs = [];
    this.stats = { waits: 0, gap: 0 };
    this.controls = new Map(); // part -> controller -> the value that was handed on last
  }

  /** Seconds into the piece that are heard now. */
  get position() {
    if (!this.playing) return this.cursor;
    const now = this.voice.now - (this.voice.context?.outputLatency || 0);
    while (this.starts.length > 1 && this.starts[1].clock <= now) this.starts.shift();
    const { clock, cursor } = this.starts[0];
    return Math.min(Math.max(cursor, cursor + now - clock), this.music.seconds);
  }

  get end() {
    return this.loop ? Math.min(this.loop[1], this.music.seconds) : this.music.seconds;
  }

  async play() {
    if (this.playing) return;
    await this.voice.start();
    this.playing = true;
    if (this.cursor >= this.end - 0.05) this.cursor = this.loop?.[0] ?? 0;
    this.fresh = !this.cursor;
    this.from(this.cursor || this.music.firstOnset);
    this.timer = setInterval(() => this.tick(), TICK);
    this.tick();
  }

  pause() {
    if (!this.playing) return;
    this.cursor = this.position;
    this.playing = false;
    clearInterval(this.timer);
    this.offs = [];
    this.sink.silence();
  }

  seek(seconds) {
    const cursor = Math.min(Math.max(seconds, 0), Math.max(this.music.seconds - 0.01, 0));
    this.fresh = false;
    if (!this.playing) return void (this.cursor = cursor);
    this.sink.silence();
    this.from(cursor);
    this.tick();
  }

  from(cursor) {
    this.cursor = cursor;
    this.clock = this.voice.now + 0.03;
    this.starts = [{ clock: this.clock, cursor }];
    this.offs = [];
    this.controls.clear();
    this.open();
  }

  /** Opens the block at the cursor: what is played of it from now on is fixed. */
  open() {
    this.index = Math.min(Math.floor(this.cursor / this.music.block + 1e-6), this.music.count - 1);
    const found = this.music.blocks[this.index];
    if (!found) return (this.current = null);
    this.sink.lift(this.clock, this.music.lift(this.cursor));
    const later = this.cursor + 1e-6;
    const gone = [...this.controls.keys()].filter((part) => !found.parts.includes(part));
    const before = inForce(
      [...gone, ...found.parts].flatMap((part) => REST.map(([controller, value]) => ({ part, controller, value }))),
      found.controls.filter(({ time }) => time <= later),
    ).map((control) => ({ ...control, time: this.cursor }));
    this.current = {
      notes: found.notes.filter(({ onset }) => onset >= this.cursor - GRACE),
      controls: [...before, ...found.controls.filter(({ time }) => time > later)],
    };
    return this.current;
  }

  /** Hands a control on if it changes anything. */
  control(time, { part, controller, value }) {
    if (!this.controls.has(part)) this.controls.set(part, new Map());
    const values = this.controls.get(part);
    if (values.get(controller) === value) return;
    values.set(controller, value);
    this.sink.control(time, part, controller, value);
  }

  tick() {
    const horizon = this.voice.now + (document.hidden ? AHEAD_HIDDEN : AHEAD);
    while (this.playing && this.clock < horizon) {
      if (!this.current && !this.open()) { // not decoded yet: wait, without losing the place
        this.stats.waits++;
        this.clock = Math.max(this.clock, this.voice.now + 0.02);
        this.starts = [{ clock: this.clock, cursor: this.cursor }];
        return;
      }
      if (this.fresh) { // the beginning may have come only now
        this.fresh = false;
        if (this.cursor < this.music.firstOnset) this.from(this.music.firstOnset);
      }
      const blockEnd = (this.index + 1) * this.music.block;
      const end = this.end > this.cursor ? this.end : this.music.seconds;
      const whole = Math.min(blockEnd, end) - this.cursor;
      const stop = this.cursor + Math.min(whole, horizon - this.clock);
      this.emit(stop);
      this.clock = whole < horizon - this.clock ? this.clock + whole : horizon; // not a sum: it might never get there
      this.cursor = stop;
      if (stop >= end - 1e-6) this.turn();
      else if (stop >= blockEnd - 1e-6) {
        this.cursor = blockEnd;
        this.open();
      }
    }
  }

  /** The end of the piece or of the passage: again, or enough. */
  turn() {
    for (const { note, time } of this.offs) this.sink.off(Math.min(time, this.clock), note);
    this.offs = [];
    if (!this.loop && !this.repeat) {
      setTimeout(() => {
        if (this.playing && this.cursor >= this.music.seconds - 0.01) {
          this.pause();
          this.cursor = 0;
        }
      }, (this.clock - this.voice.now) * 1000 + 1500);
      this.clock = Infinity; // nothing more to hand on, until a seek
      return;
    }
    this.cursor = this.loop?.[0] ?? 0;
    this.starts.push({ clock: this.clock, cursor: this.cursor });
    this.open();
  }

  /** Hands on what happens until `stop`, in the order of time. */
  emit(stop) {
    const { notes, controls } = this.current;
    const clockOf = (time) => this.clock + Math.max(0, time - this.cursor);
    const until = this.clock + stop - this.cursor;
    const events = [];
    while (controls.length && controls[0].time < stop) events.push({ time: clockOf(controls[0].time), rank: 1, control: controls.shift() });
    while (notes.length && notes[0].onset < stop) {
      const note = notes.shift(), time = clockOf(note.onset);
      const off = { time: time + Math.max(note.end - note.onset, 0.001), note: null };
      events.push({ time, rank: 2, note, off });
      this.offs.push(off);
    }
    for (const off of this.offs) if (off.time < until) events.push({ time: off.time, rank: 0, off });
    this.offs = this.offs.filter(({ time }) => time >= until);
    for (const { time, off, control, note } of events.sort((a, b) => a.time - b.time || a.rank - b.rank)) {
      if (note) off.note = this.sink.on(time, note.pitch, note.velocity, note.part);
      else if (control) this.control(time, control);
      else this.sink.off(time, off.note);
    }
  }
}
