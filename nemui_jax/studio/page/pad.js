// The pad: songs as anchors on a field of their colours, a point among them, and the path that it draws.

import { blend, css, ink, isDark, onTheme, placeColour, setPlace } from "./colour.js";
import { around, placeLabels } from "./labels.js";
import { middle } from "./names.js";
import { along, weightsAt } from "./weights.js";

const FINE = 0.02, COARSE = 0.05; // a press of an arrow key
const FEW = 12; // songs that are all named, and reached with the tab key
const MANY = 40; // songs from which they are small, and stay where they are
const NAMED = 5; // songs near the point that are named, of more than a few
const NAMED_FOUND = 12; // songs that are looked for by name and named, at most
const LETTERS = 28, NARROW_LETTERS = 17; // of a name; the pad is narrow below NARROW pixels
const SHORT_LETTERS = 9; // of a name where there is no room for more
const NARROW = 500;
const POINT_ROOM = 24, LABEL_PADDING = 18; // pixels
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const clamp = (x) => Math.min(1, Math.max(0, x));

export class Pad {
  /** `calls`: change(began), anchor(), drawn(path), solo(song), remove(song), waypoint(), note(song) -> text. */
  constructor(element, state, info, calls) {
    Object.assign(this, { element, state, info, calls, drawing: false, anchors: new Map(), names: new Map(), found: new Set() });
    this.field = element.querySelector(".field");
    this.lines = element.querySelector(".lines");
    this.labels = element.querySelector(".labels");
    this.point = element.querySelector(".point");
    this.ruler = document.createElement("canvas").getContext("2d");
    this.grab(this.point, (place, began) => this.move(place, began));
    this.point.addEventListener("keydown", (event) => this.pointKey(event));
    this.lines.addEventListener("pointerdown", (event) => this.press(event));
    new ResizeObserver(() => this.resize()).observe(element);
    onTheme(() => this.refresh());
    this.refresh();
  }

  /** Notes how large the pad and its letters are, as asking at every move would make the browser lay out the page. */
  resize() {
    this.box = { width: this.element.clientWidth, height: this.element.clientHeight };
    this.ruler.font = getComputedStyle(this.labels).font;
    this.draw();
  }

  place(event) {
    const box = this.element.getBoundingClientRect();
    return { x: clamp((event.clientX - box.left) / box.width), y: clamp((event.clientY - box.top) / box.height) };
  }

  /** Calls `move` while an element is dragged, and `done` after. */
  grab(element, move, done = () => {}) {
    element.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      element.setPointerCapture(event.pointerId);
      let moved = 0;
      const [x, y] = [event.clientX, event.clientY];
      const onMove = (next) => {
        moved = Math.max(moved, Math.hypot(next.clientX - x, next.clientY - y));
        if (moved > 3) move(this.place(next), next.timeStamp);
      };
      const onUp = () => {
        element.removeEventListener("pointermove", onMove);
        done(moved > 3);
      };
      element.addEventListener("pointermove", onMove);
      element.addEventListener("lostpointercapture", onUp, { once: true });
    });
  }

  /** A press on the field moves the point there, or begins a path. */
  press(event) {
    if (event.button) return;
    this.lines.setPointerCapture(event.pointerId);
    const path = this.drawing ? [this.place(event)] : null;
    if (!path) this.move(this.place(event), event.timeStamp);
    const onMove = (next) => {
      const place = this.place(next);
      if (!path) return this.move(place, next.timeStamp);
      const last = path.at(-1);
      if (Math.hypot(place.x - last.x, place.y - last.y) > 0.008) path.push(place);
      this.sketch = path;
      this.draw();
    };
    const onUp = () => {
      this.lines.removeEventListener("pointermove", onMove);
      this.sketch = null;
      if (path?.length > 3) this.calls.drawn(smooth(path));
      this.draw();
    };
    this.lines.addEventListener("pointermove", onMove);
    this.lines.addEventListener("lostpointercapture", onUp, { once: true });
  }

  move(place, began) {
    Object.assign(this.state, { at: place, weights: null, path: null, random: false });
    this.calls.change(began);
  }

  pointKey(event) {
    const step = event.shiftKey ? COARSE : FINE;
    if (ARROWS[event.key]) {
      event.preventDefault();
      const [dx, dy] = ARROWS[event.key];
      this.move({ x: clamp(this.state.at.x + dx * step), y: clamp(this.state.at.y + dy * step) }, event.timeStamp);
    } else if (event.key.toLowerCase() === "p") this.calls.waypoint();
  }

  anchorKey(event, anchor) {
    const step = event.shiftKey ? COARSE : FINE;
    if (ARROWS[event.key]) {
      event.preventDefault();
      const [dx, dy] = ARROWS[event.key];
      Object.assign(anchor, { x: clamp(anchor.x + dx * step), y: clamp(anchor.y + dy * step) });
      this.placed();
    } else if (event.key === "Delete" || event.key === "Backspace") {
      const away = (other) => Math.hypot(other.x - anchor.x, other.y - anchor.y);
      const [next] = this.state.pad.filter((other) => other !== anchor).sort((a, b) => away(a) - away(b));
      this.calls.remove(anchor.song);
      (this.anchors.get(next?.song) ?? this.point).focus();
    }
  }

  placed() {
    this.settle();
    this.calls.anchor();
  }

  /** Makes the anchors anew, after songs came, went or moved. */
  refresh() {
    const songs = new Set(this.state.pad.map(({ song }) => song));
    for (const [song, button] of this.anchors) {
      if (songs.has(song)) continue;
      button.remove();
      this.anchors.delete(song);
    }
    for (const { song } of this.state.pad) if (!this.anchors.has(song)) this.anchors.set(song, this.makeAnchor(song));
    this.element.classList.toggle("many", songs.size > MANY);
    this.settle();
    this.draw();
  }

  /** Puts anchors in their places, in the colours of these. */
  settle() {
    for (const anchor of this.state.pad) {
      setPlace(anchor.song, anchor);
      const { style } = this.anchors.get(anchor.song);
      style.left = `${anchor.x * 100}%`;
      style.top = `${anchor.y * 100}%`;
      style.setProperty("--ink", ink(anchor.song));
    }
    this.paintField();
  }

  makeAnchor(song) {
    const button = document.createElement("button");
    button.className = "anchor";
    button.classList.toggle("found", this.found.has(song));
    button.append(document.createElement("i"));
    button.title = `${this.info.songs[song].name}: click to hear it alone, drag to place it, Delete takes it off`;
    const anchor = () => this.state.pad.find((one) => one.song === song);
    let dragged = false;
    this.grab(button, (place, began) => {
      if (this.state.pad.length > MANY) return this.move(place, began);
      Object.assign(anchor(), place);
      this.placed();
    }, (moved) => (dragged = moved));
    button.addEventListener("click", () => {
      if (!dragged) this.calls.solo(song);
      dragged = false;
    });
    button.addEventListener("keydown", (event) => this.anchorKey(event, anchor()));
    for (const type of ["pointerenter", "focus"]) button.addEventListener(type, () => this.lookAt(song));
    for (const type of ["pointerleave", "blur"]) button.addEventListener(type, () => this.lookAt(null));
    this.element.insertBefore(button, this.point);
    return button;
  }

  /** Names a song that is pointed at. */
  lookAt(song) {
    this.looked = song;
    this.drawLabels();
  }

  /** Marks the songs that a search finds, and names some of them. */
  mark(found) {
    this.found = found;
    this.element.classList.toggle("searched", found.size > 0);
    for (const [song, button] of this.anchors) button.classList.toggle("found", found.has(song));
    this.drawLabels();
  }

  /** The colours between the songs: a small picture, drawn large. */
  paintField() {
    const [width, height] = [44, 36], dark = isDark();
    Object.assign(this.field, { width, height });
    const pen = this.field.getContext("2d");
    const image = pen.createImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      const place = { x: ((i % width) + 0.5) / width, y: (Math.floor(i / width) + 0.5) / height };
      const near = Math.min(1, ...this.state.pad.map(({ x, y }) => Math.hypot(x - place.x, y - place.y)));
      const glow = Math.exp(-near * 7);
      const colour = dark ? [0.2 + 0.2 * glow, 0.045 + 0.06 * glow] : [0.955 - 0.09 * glow, 0.02 + 0.06 * glow];
      image.data.set([...placeColour(place, ...colour), 255], 4 * i);
    }
    pen.putImageData(image, 0, 0);
  }

  /** Draws what is heard; `weights` are those of the moment, `at` where the point is then. */
  draw(weights = this.weights ?? new Map(), at = this.at ?? this.state.at) {
    const { box } = this;
    const changed = new Set([...(this.weights?.keys() ?? []), ...weights.keys()]);
    Object.assign(this, { weights, at });
    if (!box?.width) return;
    const pen = this.pen(box), to = ({ x, y }) => [x * box.width, y * box.height];
    const few = this.state.pad.length <= FEW;
    for (const anchor of this.state.pad) {
      const weight = weights.get(anchor.song) ?? 0, button = this.anchors.get(anchor.song);
      button.tabIndex = few || weight || button === document.activeElement ? 0 : -1;
      if (changed.has(anchor.song) || !button.hasAttribute("aria-label")) {
        button.style.setProperty("--weight", weight.toFixed(3));
        button.setAttribute("aria-label", `${this.info.songs[anchor.song].name}, weight ${Math.round(weight * 100)} %`);
      }
      if (weight) this.drawLine(pen, to(anchor), to(at), anchor.song, weight);
    }
    const path = this.sketch ?? this.state.path;
    if (path?.length > 1) this.drawPath(pen, path, to);
    this.point.style.left = `${at.x * 100}%`;
    this.point.style.top = `${at.y * 100}%`;
    this.point.style.setProperty("--ink", css(blend([...weights], isDark() ? 0.84 : 0.62, 0.13)));
    const heard = [...weights].sort((a, b) => b[1] - a[1]).map(([song, weight]) => `${Math.round(weight * 100)} % ${this.info.songs[song].name}`);
    this.point.setAttribute("aria-valuetext", heard.join(", ") || "no song");
    this.point.setAttribute("aria-valuenow", Math.round(at.x * 100));
    this.drawLabels();
  }

  /** A clean sheet for lines, as large as the pad. */
  pen(box) {
    const scale = devicePixelRatio || 1, size = { width: Math.round(box.width * scale), height: Math.round(box.height * scale) };
    if (this.lines.width !== size.width || this.lines.height !== size.height) Object.assign(this.lines, size);
    const pen = this.lines.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, box.width, box.height);
    return pen;
  }

  drawLine(pen, from, to, song, weight) {
    pen.strokeStyle = ink(song, 0.25 + 0.7 * weight);
    pen.lineWidth = 1 + 5 * weight;
    pen.lineCap = "round";
    pen.beginPath();
    pen.moveTo(...from);
    pen.lineTo(...to);
    pen.stroke();
  }

  /** Names the songs that are heard, the one that is pointed at, and some that are near the point. */
  drawLabels() {
    const { box, weights, at, state } = this;
    if (!box) return;
    const away = ({ x, y }) => Math.hypot((x - at.x) * box.width, (y - at.y) * box.height);
    const rank = (anchor) => (anchor.song === this.looked ? -2 : weights.has(anchor.song) ? -1 - weights.get(anchor.song) / 2 : away(anchor));
    const sorted = [...state.pad].sort((a, b) => rank(a) - rank(b));
    const first = sorted.filter((anchor) => rank(anchor) < 0);
    const near = sorted.slice(0, state.pad.length <= FEW ? FEW : Math.max(NAMED, first.length));
    const found = sorted.filter((anchor) => this.found.has(anchor.song) && !first.includes(anchor)).slice(0, NAMED_FOUND);
    const named = [...new Set([...first, ...found, ...(this.found.size ? [] : near)])];
    const letters = box.width < NARROW ? NARROW_LETTERS : LETTERS;
    const items = named.map((anchor) => {
      const texts = [this.labelOf(anchor.song, letters), middle(this.info.short(anchor.song), letters), middle(this.info.short(anchor.song), SHORT_LETTERS)];
      const widths = texts.map((text) => this.measure(text));
      return { anchor, texts, x: anchor.x * box.width, y: anchor.y * box.height, radius: this.radius(anchor.song), widths, must: rank(anchor) < 0 };
    });
    const uncovered = sorted.length > MANY ? named : sorted; // where songs are many, names may cover some
    const obstacles = [around(at.x * box.width, at.y * box.height, POINT_ROOM), ...uncovered.map(({ song, x, y }) => around(x * box.width, y * box.height, this.radius(song)))];
    const boxes = placeLabels(items, obstacles, box);
    const labels = items.map(({ anchor, texts }, i) => {
      if (!boxes[i]) return null;
      const text = texts[boxes[i].size];
      const label = this.names.get(anchor.song) ?? document.createElement("span");
      if (label.textContent !== text) label.textContent = text;
      label.classList.toggle("heard", weights.has(anchor.song));
      label.style.transform = `translate(${Math.round(boxes[i].left)}px, ${Math.round(boxes[i].top)}px)`;
      return [anchor.song, label];
    }).filter(Boolean);
    this.names = new Map(labels);
    this.labels.replaceChildren(...this.names.values());
  }

  labelOf(song, letters) {
    const weight = this.weights.get(song), note = this.calls.note(song);
    return [middle(this.info.short(song), letters), note, weight ? `${Math.round(weight * 100)} %` : ""].filter(Boolean).join("  ");
  }

  /** The radius in pixels in which an anchor is seen. */
  radius(song) {
    const [small, large] = this.state.pad.length > MANY ? [5, 5] : [8, 7];
    return small + large * (this.weights.get(song) ?? 0);
  }

  /** How wide a name is, in pixels. */
  measure(text) {
    return Math.ceil(this.ruler.measureText(text).width) + LABEL_PADDING;
  }

  drawPath(pen, path, to) {
    const places = along(path, 160);
    pen.lineWidth = 3;
    for (let i = 1; i < places.length; i++) {
      pen.strokeStyle = css(blend([...weightsAt(places[i], this.state.pad)], isDark() ? 0.86 : 0.5, 0.12), 0.95);
      pen.beginPath();
      pen.moveTo(...to(places[i - 1]));
      pen.lineTo(...to(places[i]));
      pen.stroke();
    }
    pen.fillStyle = isDark() ? "#fff" : "#223";
    for (const [place, radius] of [[places[0], 5], [places.at(-1), 3]]) {
      pen.beginPath();
      pen.arc(...to(place), radius, 0, 7);
      pen.fill();
    }
  }
}

/** A hand's path without its tremor. */
function smooth(path) {
  for (let round = 0; round < 2; round++)
    path = path.map((place, i) => {
      const [before, after] = [path[i - 1] ?? place, path[i + 1] ?? place];
      return { x: (before.x + 2 * place.x + after.x) / 4, y: (before.y + 2 * place.y + after.y) / 4 };
    });
  return path;
}
