// The roll: all notes with their velocities, drums in a lane below, a playhead, and the whole piece in small. A piece of
// several parts has a colour for each, one of one part those of its songs.

import { blend, css, isDark, partColour } from "./colour.js";

const BLACK = new Set([1, 3, 6, 8, 10]);
const HEAD = 0.28; // where on the roll the playhead stands while the music plays
const DRUM_HEIGHT = 11, LANE_SHARE = 0.32; // pixels of a row of drums; the most of the roll that the lane takes
const LABEL_WIDTH = 66, NARROW = 600; // pixels of the names of its rows, and of a roll that has none
const DRUMS = { Percussion: [], Cymbals: [49, 51, 52, 53, 55, 57, 59], Hats: [42, 44, 46], Toms: [41, 43, 45, 47, 48, 50], Snare: [37, 38, 39, 40], Kick: [35, 36] };
const ROWS = Array.from({ length: 128 }, (_, pitch) => Object.keys(DRUMS).find((name) => DRUMS[name].includes(pitch)) ?? "Percussion"); // by pitch
const LEAST_PITCHES = 30, MARGIN = 2; // semitones that the roll shows at least, and beyond the highest and lowest note
export const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

export class Roll {
  /** `calls`: seek(seconds), loop([from, to] | null), weights(seconds) -> Map. */
  constructor(element, player, calls) {
    Object.assign(this, { element, player, calls, rows: [], start: 0, least: 0, span: 20, follow: true, dirty: true, strip: null, fresh: [], sizes: new Map() });
    this.canvas = element.querySelector(".notes");
    this.map = element.querySelector(".map");
    this.canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.touches = new Map();
    for (const name of ["pointerdown", "pointermove", "pointerup", "pointercancel"])
      this.canvas.addEventListener(name, (event) => this.pointer(event));
    this.map.addEventListener("pointerdown", (event) => this.mapPress(event));
    new ResizeObserver(() => this.resize()).observe(element);
  }

  get music() {
    return this.player.music;
  }

  /** Notes how large the canvases are, as asking in every frame would make the browser lay out the page there. */
  resize() {
    for (const canvas of [this.canvas, this.map]) this.sizes.set(canvas, [canvas.clientWidth, canvas.clientHeight]);
    this.bound();
    this.refresh();
  }

  /** The music changed: everything is to be drawn anew. */
  refresh() {
    this.dirty = true;
    this.stale = true;
  }

  /** Some blocks changed. */
  changed(from, to) {
    this.dirty = true;
    if (this.count !== this.music.count) this.stale = true;
    this.count = this.music.count;
    this.fresh.push([from, to]);
    this.findDrums();
    this.fitPitches();
  }

  /** Fits the pitches that are shown to those of the piece; while some of it is missing they only grow. */
  fitPitches() {
    let [low, high] = [127, 0];
    for (const block of this.music.blocks) for (const { part, pitch } of block?.notes ?? []) if (!part.drums) [low, high] = [Math.min(low, pitch), Math.max(high, pitch)];
    if (low > high) return;
    const missing = Math.max(0, LEAST_PITCHES - (high - low) - 2 * MARGIN) / 2;
    let fitted = [Math.max(0, Math.floor(low - MARGIN - missing)), Math.min(127, Math.ceil(high + MARGIN + missing))];
    const whole = this.music.blocks.length === this.music.count && !this.music.blocks.includes(undefined);
    if (this.pitches && !whole) fitted = [Math.min(fitted[0], this.pitches[0]), Math.max(fitted[1], this.pitches[1])];
    if (this.pitches?.join() !== fitted.join()) this.stale = true;
    this.pitches = fitted;
  }

  /** The kinds of drums that are played anywhere in the piece, from above: a row of the lane for each. */
  findDrums() {
    const used = new Set();
    if (this.music.parts.some(({ drums }) => drums))
      for (const block of this.music.blocks) for (const { part, pitch } of block?.notes ?? []) if (part.drums) used.add(ROWS[pitch]);
    const rows = Object.keys(DRUMS).filter((name) => used.has(name));
    if (rows.length !== this.rows.length) this.stale = true;
    this.rows = rows;
    this.bound();
  }

  zoom(factor, at = 0.5) {
    const span = Math.min(Math.max(this.span * factor, 3), Math.max(this.music.seconds, 10));
    this.start += (this.span - span) * at;
    this.span = span;
    this.bound();
  }

  scroll(seconds) {
    this.follow = false;
    this.start += seconds;
    this.bound();
  }

  /** Whether the rows of drums have their names. */
  get isNamed() {
    return this.rows.length > 0 && this.sizes.get(this.canvas)?.[0] > NARROW;
  }

  /** Keeps the view inside the piece; its beginning stands beside the names of the rows. */
  bound() {
    const least = this.isNamed ? (-LABEL_WIDTH / this.sizes.get(this.canvas)[0]) * this.span : 0;
    const begins = this.start <= this.least;
    this.least = least;
    this.start = begins ? least : Math.max(Math.min(this.start, this.music.seconds - this.span), least);
    this.dirty = true;
  }

  wheel(event) {
    event.preventDefault();
    const at = (event.clientX - this.canvas.getBoundingClientRect().left) / this.canvas.clientWidth;
    if (event.ctrlKey || event.metaKey) this.zoom(Math.exp(event.deltaY * 0.004), this.follow ? HEAD : at);
    else this.scroll(((event.deltaX || event.deltaY) / this.canvas.clientWidth) * this.span);
  }

  key(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 };
    if (event.key in moves) this.calls.seek(this.player.position + moves[event.key] * (event.shiftKey ? 5 : 1));
    else if (event.key === "+" || event.key === "=") this.zoom(0.75, HEAD);
    else if (event.key === "-") this.zoom(1.33, HEAD);
    else if (event.key === "[" || event.key === "]") this.mark(event.key);
    else return;
    event.preventDefault();
    this.follow = true;
  }

  /** Sets one end of the passage that is looped, at the playhead. */
  mark(side) {
    const [from, to] = this.player.loop ?? [0, this.music.seconds];
    const now = this.player.position;
    const loop = side === "[" ? [now, to > now + 0.5 ? to : this.music.seconds] : [from < now - 0.5 ? from : 0, now];
    if (loop[1] - loop[0] >= 0.5) this.calls.loop(loop);
  }

  /** A click seeks, a drag scrolls, two fingers zoom. */
  pointer(event) {
    const { clientX: x, type, pointerId } = event;
    if (type === "pointerdown") {
      this.canvas.setPointerCapture(pointerId);
      this.touches.set(pointerId, x);
      this.pressed = { x, moved: false };
    } else if (type === "pointermove" && this.touches.has(pointerId)) {
      const before = [...this.touches.values()];
      const last = this.touches.get(pointerId);
      this.touches.set(pointerId, x);
      if (Math.abs(x - this.pressed.x) > 4) this.pressed.moved = true;
      const after = [...this.touches.values()];
      if (after.length === 2) {
        const [was, is] = [Math.abs(before[0] - before[1]), Math.abs(after[0] - after[1])];
        if (was > 10 && is > 10) this.zoom(was / is);
      } else if (this.pressed.moved) this.scroll(((last - x) / this.canvas.clientWidth) * this.span);
    } else if (type !== "pointermove" && this.touches.delete(pointerId) && !this.touches.size && !this.pressed.moved) {
      const box = this.canvas.getBoundingClientRect();
      this.calls.seek(this.start + ((x - box.left) / box.width) * this.span);
    }
  }

  /** On the small picture a click seeks, and a drag marks the passage to loop. */
  mapPress(event) {
    const box = this.map.getBoundingClientRect();
    const at = ({ clientX }) => Math.min(1, Math.max(0, (clientX - box.left) / box.width)) * this.music.seconds;
    const from = at(event);
    this.map.setPointerCapture(event.pointerId);
    const onMove = (next) => {
      const passage = [Math.min(from, at(next)), Math.max(from, at(next))];
      this.marking = Math.abs(next.clientX - event.clientX) > 6 ? passage : null;
      this.dirty = true;
    };
    this.map.addEventListener("pointermove", onMove);
    this.map.addEventListener("lostpointercapture", () => {
      this.map.removeEventListener("pointermove", onMove);
      if (this.marking && this.marking[1] - this.marking[0] >= 0.5) this.calls.loop(this.marking);
      else {
        this.calls.seek(from);
        this.follow = true;
      }
      this.marking = null;
    }, { once: true });
  }

  /** Draws what changed since the last frame. */
  frame() {
    const now = this.player.position;
    if (this.player.playing && this.follow) {
      this.start = now - HEAD * this.span;
      this.bound();
    } else if (this.follow && (now < this.start || now >= this.start + this.span)) {
      this.start = now - HEAD * this.span;
      this.bound();
    }
    if (now !== this.last) this.dirty = true;
    this.last = now;
    if (!this.dirty) return;
    this.dirty = false;
    this.drawNotes(now);
    this.drawMap(now);
  }

  size(canvas) {
    const scale = devicePixelRatio || 1;
    const [width, height] = this.sizes.get(canvas) ?? [0, 0];
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale))
      Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    return { pen, width, height };
  }

  drawNotes(now) {
    const { pen, width, height } = this.size(this.canvas);
    if (!width) return;
    const { start, span, player } = this;
    const [low, high] = this.pitches ?? [21, 108];
    const drumHeight = Math.min(DRUM_HEIGHT, (LANE_SHARE * height) / Math.max(this.rows.length, 1));
    const bottom = height - (this.rows.length ? drumHeight * this.rows.length + 7 : 0);
    const lane = (bottom - 18) / (high - low + 1);
    const x = (time) => ((time - start) / span) * width;
    const y = (pitch) => 18 + (high - pitch) * lane;
    const dark = isDark();
    pen.fillStyle = dark ? "rgb(255 255 255 / .022)" : "rgb(20 20 60 / .03)";
    for (let pitch = low; pitch <= high; pitch++) if (BLACK.has(pitch % 12)) pen.fillRect(0, y(pitch), width, lane);
    this.drawTime(pen, width, height, x, dark);
    if (this.rows.length) this.drawLane(pen, width, height, bottom, dark);
    const several = this.music.parts.length > 1;
    const firstBlock = Math.max(0, Math.floor(start / this.music.block) - 12);
    const lastBlock = Math.min(this.music.count - 1, Math.floor((start + span) / this.music.block) + 1);
    const box = Math.max(lane * 1.15, 2.4);
    let colours = [], last = null;
    for (let index = firstBlock; index <= lastBlock; index++) {
      const block = this.music.blocks[index];
      if (!block?.notes.length) continue;
      const weights = this.calls.weights((index + 0.5) * this.music.block);
      const pairs = [...weights];
      if (weights !== last) [colours, last] = [[], weights];
      for (const { onset, end, pitch, velocity, part } of block.notes) {
        if (part.drums) {
          const row = this.rows.indexOf(ROWS[pitch]), hit = player.playing && onset <= now && now < onset + 0.12;
          pen.fillStyle = partColour(part, hit ? 2 : velocity / 127, part.heard ? 1 : 0.25);
          pen.fillRect(x(onset) - 1, bottom + 4 + row * drumHeight + 0.1 * drumHeight, hit ? 4 : 2.6, drumHeight * 0.8);
          continue;
        }
        const [from, to] = [x(onset), x(end)];
        if (to < 0 || from > width) continue;
        const sounds = player.playing && onset <= now && now < end;
        const top = y(pitch) + (lane - box) / 2, length = Math.max(to - from - 0.8, 1.8);
        if (sounds) {
          pen.fillStyle = several ? partColour(part, 0.8, 0.3) : css(blend(pairs, dark ? 0.75 : 0.7, 0.17), 0.3);
          pen.fillRect(from - 3, top - 3, length + 6, box + 6);
        }
        const level = sounds ? 8 : velocity >> 4;
        if (several) pen.fillStyle = partColour(part, level === 8 ? 2 : (level + 0.5) / 8, part.heard ? 1 : 0.22);
        else pen.fillStyle = colours[level] ??= noteColour(pairs, level, dark);
        pen.fillRect(from, top, length, box);
      }
    }
    if (this.isNamed) this.drawLabels(pen, bottom, drumHeight, dark);
    const head = x(now);
    pen.fillStyle = dark ? "rgb(255 255 255 / .85)" : "rgb(20 20 40 / .8)";
    pen.fillRect(head - 0.75, 14, 1.5, height - 14);
    pen.beginPath();
    pen.moveTo(head - 5, 8);
    pen.lineTo(head + 5, 8);
    pen.lineTo(head, 15);
    pen.fill();
  }

  /** The ground of the drums. */
  drawLane(pen, width, height, bottom, dark) {
    pen.fillStyle = dark ? "rgb(255 255 255 / .028)" : "rgb(20 20 60 / .035)";
    pen.fillRect(0, bottom, width, height - bottom);
    pen.fillStyle = dark ? "rgb(255 255 255 / .12)" : "rgb(20 20 60 / .13)";
    pen.fillRect(0, bottom, width, 1);
  }

  drawLabels(pen, bottom, drumHeight, dark) {
    pen.fillStyle = dark ? "rgb(20 23 34 / .8)" : "rgb(255 254 251 / .82)";
    pen.fillRect(0, bottom + 1, LABEL_WIDTH, drumHeight * this.rows.length + 6);
    pen.font = `${Math.min(10, drumHeight + 1)}px ui-sans-serif, system-ui, sans-serif`;
    pen.fillStyle = dark ? "rgb(255 255 255 / .62)" : "rgb(20 20 60 / .68)";
    this.rows.forEach((name, row) => pen.fillText(name, 8, bottom + 4 + (row + 0.84) * drumHeight));
  }

  drawTime(pen, width, height, x, dark) {
    const { start, span } = this;
    const step = [0.5, 1, 2, 5, 10, 15, 30, 60, 120].find((one) => (one / span) * width > 64) ?? 300;
    pen.font = "11px ui-sans-serif, system-ui, sans-serif";
    for (let time = Math.max(0, Math.ceil(start / step) * step); time < start + span; time += step) {
      pen.fillStyle = dark ? "rgb(255 255 255 / .07)" : "rgb(20 20 60 / .08)";
      pen.fillRect(x(time), 16, 1, height);
      pen.fillStyle = dark ? "rgb(255 255 255 / .45)" : "rgb(20 20 60 / .55)";
      pen.fillText(step < 1 ? `${clock(time)}.${Math.round((time % 1) * 10)}` : clock(time), x(time) + 4, 12);
    }
    const loop = this.marking ?? this.player.loop;
    if (!loop) return;
    pen.fillStyle = dark ? "rgb(120 160 255 / .1)" : "rgb(60 90 255 / .08)";
    pen.fillRect(x(loop[0]), 16, x(loop[1]) - x(loop[0]), height);
  }

  drawMap(now) {
    const { pen, width, height } = this.size(this.map);
    if (!width) return;
    const { music, start, span } = this;
    const x = (time) => (time / music.seconds) * width;
    if (this.stale || this.fresh.length || !this.strip || this.strip.width !== this.map.width) this.paintStrip(width, height);
    pen.drawImage(this.strip, 0, 0, width, height);
    const dark = isDark();
    const loop = this.marking ?? this.player.loop;
    if (loop) {
      pen.fillStyle = dark ? "rgb(120 160 255 / .25)" : "rgb(60 90 255 / .16)";
      pen.fillRect(x(loop[0]), 0, x(loop[1]) - x(loop[0]), height);
    }
    pen.strokeStyle = dark ? "rgb(255 255 255 / .4)" : "rgb(20 20 60 / .4)";
    pen.beginPath();
    pen.roundRect(Math.max(x(start), 0) + 0.5, 0.5, Math.max(x(span + Math.min(start, 0)) - 1, 4), height - 1, 4);
    pen.stroke();
    pen.fillStyle = dark ? "#fff" : "#112";
    pen.fillRect(x(now) - 0.75, 0, 1.5, height);
  }

  /** Paints blocks on the small picture: those that changed, or all. */
  paintStrip(width, height) {
    const { music } = this;
    const whole = this.stale || !this.strip || this.strip.width !== this.map.width || this.strip.height !== this.map.height;
    if (whole) {
      this.strip ??= document.createElement("canvas");
      Object.assign(this.strip, { width: this.map.width, height: this.map.height });
    }
    const pen = this.strip.getContext("2d");
    pen.setTransform(this.map.width / width, 0, 0, this.map.height / height, 0, 0);
    const [low, high] = this.pitches ?? [21, 108];
    const several = music.parts.length > 1, space = height - (this.rows.length ? 13 : 7);
    const x = (time) => (time / music.seconds) * width;
    for (const [from, to] of whole ? [[0, music.count]] : this.fresh) {
      pen.clearRect(x(from * music.block), 0, x((to - from) * music.block), height);
      for (let index = from; index < to; index++) {
        const weights = [...this.calls.weights((index + 0.5) * music.block)];
        pen.fillStyle = css(blend(weights, isDark() ? 0.72 : 0.55, 0.12), 0.75);
        for (const { onset, end, pitch, part } of music.blocks[index]?.notes ?? []) {
          if (several) pen.fillStyle = partColour(part, 0.7, part.heard ? 0.75 : 0.2);
          if (part.drums) pen.fillRect(x(onset), height - 6, 0.6, 4);
          else pen.fillRect(x(onset), 3 + ((high - pitch) / (high - low)) * space, Math.max(x(end - onset), 1), 1.2);
        }
      }
    }
    this.stale = false;
    this.fresh = [];
  }
}

/** Level 0 to 7: of velocity; 8: sounding. */
function noteColour(pairs, level, dark) {
  if (level === 8) return css(blend(pairs, dark ? 0.97 : 0.34, 0.13));
  const force = (level + 0.5) / 8;
  return css(blend(pairs, dark ? 0.42 + 0.46 * force : 0.82 - 0.4 * force, 0.06 + 0.14 * force));
}
