// The pad: songs as anchors on a field of their colours, a point among them, and the path that it draws.

import { blend, css, ink, isDark, onTheme } from "./colour.js";
import { along, weightsAt } from "./link.js";

const FINE = 0.01, COARSE = 0.05; // a press of an arrow key
const clamp = (x) => Math.min(1, Math.max(0, x));

export class Pad {
  /** `calls`: change(began), anchor(), drawn(path), solo(song), remove(song), waypoint(). */
  constructor(element, state, info, calls) {
    Object.assign(this, { element, state, info, calls, drawing: false, anchors: new Map() });
    this.field = element.querySelector(".field");
    this.lines = element.querySelector(".lines");
    this.point = element.querySelector(".point");
    this.grab(this.point, (place, began) => this.move(place, began));
    this.point.addEventListener("keydown", (event) => this.pointKey(event));
    this.lines.addEventListener("pointerdown", (event) => this.press(event));
    new ResizeObserver(() => this.draw()).observe(element);
    onTheme(() => this.refresh());
    this.refresh();
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
    const step = event.shiftKey ? COARSE : FINE * 2;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (moves[event.key]) {
      event.preventDefault();
      const [dx, dy] = moves[event.key];
      this.move({ x: clamp(this.state.at.x + dx * step), y: clamp(this.state.at.y + dy * step) }, event.timeStamp);
    } else if (event.key.toLowerCase() === "p") this.calls.waypoint();
  }

  anchorKey(event, anchor) {
    const step = event.shiftKey ? COARSE : FINE * 2;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (moves[event.key]) {
      event.preventDefault();
      const [dx, dy] = moves[event.key];
      Object.assign(anchor, { x: clamp(anchor.x + dx * step), y: clamp(anchor.y + dy * step) });
      this.placed();
    } else if (event.key === "Delete" || event.key === "Backspace") this.calls.remove(anchor.song);
  }

  placed() {
    this.paintField();
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
    for (const [song, button] of this.anchors) button.style.setProperty("--ink", ink(song));
    this.paintField();
    this.draw();
  }

  makeAnchor(song) {
    const button = document.createElement("button");
    button.className = "anchor";
    button.append(Object.assign(document.createElement("i")), Object.assign(document.createElement("span"), { textContent: this.info.short(song) }));
    button.title = `${this.info.songs[song].name}: drag to place it, click to hear it alone, Delete takes it off`;
    const anchor = () => this.state.pad.find((one) => one.song === song);
    let dragged = false;
    this.grab(button, (place) => {
      Object.assign(anchor(), place);
      this.placed();
    }, (moved) => (dragged = moved));
    button.addEventListener("click", () => {
      if (!dragged) this.calls.solo(song);
      dragged = false;
    });
    button.addEventListener("keydown", (event) => this.anchorKey(event, anchor()));
    this.element.insertBefore(button, this.point);
    return button;
  }

  /** The colours between the songs: a small picture, drawn large. */
  paintField() {
    const [width, height] = [44, 36];
    Object.assign(this.field, { width, height });
    const pen = this.field.getContext("2d");
    const image = pen.createImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      const place = { x: ((i % width) + 0.5) / width, y: (Math.floor(i / width) + 0.5) / height };
      const near = Math.min(1, ...this.state.pad.map(({ x, y }) => Math.hypot(x - place.x, y - place.y)));
      const glow = Math.exp(-near * 5.5);
      const colour = isDark() ? [0.23 + 0.23 * glow, 0.05 + 0.08 * glow] : [0.945 - 0.1 * glow, 0.025 + 0.07 * glow];
      image.data.set([...blend([...weightsAt(place, this.state.pad)], ...colour), 255], 4 * i);
    }
    pen.putImageData(image, 0, 0);
  }

  /** Places everything; `weights` are those of the moment, `at` where the point is then. */
  draw(weights = this.weights ?? new Map(), at = this.at ?? this.state.at) {
    Object.assign(this, { weights, at });
    const box = { width: this.element.clientWidth, height: this.element.clientHeight };
    if (!box.width) return;
    const scale = devicePixelRatio || 1;
    if (this.lines.width !== Math.round(box.width * scale) || this.lines.height !== Math.round(box.height * scale))
      Object.assign(this.lines, { width: Math.round(box.width * scale), height: Math.round(box.height * scale) });
    const pen = this.lines.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, box.width, box.height);
    const to = ({ x, y }) => [x * box.width, y * box.height];
    for (const anchor of this.state.pad) {
      const weight = weights.get(anchor.song) ?? 0;
      const button = this.anchors.get(anchor.song);
      button.style.left = `${anchor.x * 100}%`;
      button.style.top = `${anchor.y * 100}%`;
      button.style.setProperty("--weight", weight.toFixed(3));
      button.classList.toggle("left", anchor.x > 0.6);
      const share = `${Math.round(weight * 100)} %`;
      button.setAttribute("aria-label", `${this.info.songs[anchor.song].name}, weight ${share}`);
      button.dataset.share = weight ? share : "";
      if (!weight) continue;
      pen.strokeStyle = ink(anchor.song, 0.25 + 0.7 * weight);
      pen.lineWidth = 1 + 5 * weight;
      pen.lineCap = "round";
      pen.beginPath();
      pen.moveTo(...to(anchor));
      pen.lineTo(...to(at));
      pen.stroke();
    }
    const path = this.sketch ?? this.state.path;
    if (path?.length > 1) this.drawPath(pen, path, to);
    this.point.style.left = `${at.x * 100}%`;
    this.point.style.top = `${at.y * 100}%`;
    this.point.style.setProperty("--ink", css(blend([...weights], isDark() ? 0.84 : 0.62, 0.13)));
    const heard = [...weights].sort((a, b) => b[1] - a[1]).map(([song, weight]) => `${Math.round(weight * 100)} % ${this.info.songs[song].name}`);
    this.point.setAttribute("aria-valuetext", heard.join(", ") || "no song");
    this.point.setAttribute("aria-valuenow", Math.round(at.x * 100));
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
