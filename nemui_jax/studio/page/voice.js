// Instruments of our own in WebAudio, by family. Times are the audio context's, in seconds; a note is known by what `on`
// returns. A part has a strip of its own: volume, pan, bend, pedal, and whether it is heard.

const MOST = 128; // notes at once
const HATS = new Set([42, 44, 46]); // drums of which each ends the others
export const PEDAL = 64, VOLUME = 7, PAN = 10, EXPRESSION = 11, BEND = 128; // bends are in cents
export const REST = [[PEDAL, 0], [VOLUME, 100], [PAN, 64], [EXPRESSION, 127], [BEND, 0]]; // controls and their first values

const soft = (base, force) => Math.min(15000, base * 1.2 + 260 + 9500 * force ** 2.1);
const FAMILIES = { // pitches: of the sounds that are made, the first ones before playing; shapes of tones
  piano: { first: [60, 72, 48], low: 24, high: 108, step: 3, gain: 0.62, rise: 0, bright: soft, fall: (pitch) => (pitch > 90 ? 0.35 : 0.05 + 0.0016 * Math.max(0, 70 - pitch)), spread: true },
  plucked: { first: [60], low: 36, high: 96, step: 4, gain: 0.8, rise: 0, bright: soft, fall: () => 0.05 },
  bass: { first: [40], low: 24, high: 64, step: 4, gain: 0.6, rise: 0, bright: (base, force) => 300 + 3 * base + 2400 * force, fall: () => 0.04 },
  bowed: { first: [60], low: 28, high: 100, step: 6, gain: 0.75, rise: 0.045, bright: (base, force) => 700 + 2 * base + 3800 * force, fall: () => 0.09, lasts: true },
  lead: { first: [60], low: 28, high: 100, step: 6, gain: 0.68, rise: 0.008, bright: (base, force) => 500 + 2 * base + 5200 * force, fall: () => 0.035, lasts: true },
  drums: { first: Array.from({ length: 61 }, (_, i) => 27 + i), low: 27, high: 87, step: 1, gain: 0.75, rise: 0, bright: () => 15000, fall: () => 0.03 },
};

export class Voice {
  /** `sounds` is the address of the worker that makes them. */
  constructor(sounds) {
    this.sounds = {}; // family -> pitch -> buffer
    this.ready = {}; // family -> promise of its first sounds
    this.strips = new Map();
    this.notes = new Set();
    this.stats = { notes: 0, late: 0, latest: 0, stolen: 0 };
    this.worker = new Worker(sounds);
    this.worker.onmessage = ({ data: { family, pitch, rate, sound } }) => {
      const buffer = new AudioBuffer({ length: sound.length, sampleRate: rate });
      buffer.copyToChannel(sound, 0);
      const sounds = this.sounds[family];
      sounds.set(pitch, buffer);
      if (sounds.size === FAMILIES[family].first.length) sounds.ready();
    };
  }

  /** Has the sounds of families made. */
  need(families) {
    const wanted = [...new Set(families)].filter((family) => !this.sounds[family]);
    for (const family of wanted) {
      this.sounds[family] = new Map();
      this.ready[family] = new Promise((resolve) => (this.sounds[family].ready = resolve));
      this.make(family, FAMILIES[family].first);
    }
    for (const family of wanted) {
      const { first, low, high, step } = FAMILIES[family];
      const others = Array.from({ length: Math.floor((high - low) / step) + 1 }, (_, i) => low + i * step);
      this.make(family, others.filter((pitch) => !first.includes(pitch)));
    }
  }

  make(family, pitches) {
    this.worker.postMessage(pitches.map((pitch) => ({ family, pitch })));
  }

  get now() {
    return this.context?.currentTime ?? 0;
  }

  get isReady() {
    return Object.entries(this.sounds).every(([family, sounds]) => sounds.size >= FAMILIES[family].first.length);
  }

  /** Starts the sound; browsers allow that in answer to a gesture. */
  async start() {
    if (!this.context) this.build(new AudioContext({ latencyHint: "interactive" }));
    await Promise.all([this.context.resume(), ...Object.values(this.ready)]);
  }

  build(context) {
    this.context = context;
    this.volume = new GainNode(context, { gain: this.level ?? 0.8 });
    const limiter = new DynamicsCompressorNode(context, { threshold: -9, knee: 8, ratio: 18, attack: 0.002, release: 0.18 });
    this.analyser = new AnalyserNode(context, { fftSize: 2048 });
    this.room = new ConvolverNode(context, { buffer: hall(context) });
    const wet = new GainNode(context, { gain: 0.22 });
    this.room.connect(wet).connect(this.volume);
    this.opening = new GainNode(context);
    this.volume.connect(this.opening).connect(limiter).connect(this.analyser).connect(context.destination);
  }

  set gain(level) {
    this.level = level;
    this.volume?.gain.setTargetAtTime(level, this.now, 0.02);
  }

  /** Everything is louder from a time on. */
  lift(time, by) {
    this.opening.gain.setTargetAtTime(by, time, 0.03);
  }

  /** The strip of a part. */
  strip(part) {
    let strip = this.strips.get(part);
    if (!strip) {
      const { context } = this;
      strip = { level: new GainNode(context), heard: new GainNode(context, { gain: +part.heard }), pan: new StereoPannerNode(context), bend: new ConstantSourceNode(context, { offset: 0 }), pedal: false, [VOLUME]: 100, [EXPRESSION]: 127 };
      strip.level.connect(strip.heard).connect(strip.pan).connect(this.volume);
      strip.pan.connect(this.room);
      strip.bend.start();
      strip.sides = [-0.35, -0.18, 0, 0.18, 0.35].map((pan) => new StereoPannerNode(context, { pan }));
      for (const side of strip.sides) side.connect(strip.level);
      this.strips.set(part, strip);
    }
    return strip;
  }

  /** Parts are muted or heard again, as `part.heard` says. */
  hear() {
    for (const [part, strip] of this.strips) strip.heard.gain.setTargetAtTime(+part.heard, this.now, 0.015);
  }

  on(time, pitch, velocity, part) {
    const { context, stats } = this;
    stats.notes++;
    if (time < context.currentTime) {
      stats.late++;
      stats.latest = Math.max(stats.latest, context.currentTime - time);
    }
    const family = FAMILIES[part.family], key = nearest(this.sounds[part.family], pitch, part.drums);
    if (key === null) return null; // its family has just been asked for
    const strip = this.strip(part), begin = Math.max(time, context.currentTime);
    const force = velocity / 127, base = 440 * 2 ** ((pitch - 69) / 12);
    const source = new AudioBufferSourceNode(context, { buffer: this.sounds[part.family].get(key), playbackRate: 2 ** ((pitch - key) / 12), loop: !!family.lasts });
    const tone = new BiquadFilterNode(context, { type: "lowpass", Q: 0.1, frequency: family.bright(base, force) });
    const level = family.gain * force ** 1.55;
    const gain = new GainNode(context, { gain: family.rise ? 0 : level });
    if (family.rise) gain.gain.setTargetAtTime(level, begin, family.rise);
    strip.bend.connect(source.detune);
    source.connect(tone).connect(gain).connect(strip.sides[family.spread ? Math.min(4, Math.max(0, Math.floor((pitch - 28) / 13))) : 2]);
    const note = { source, gain, pitch, time, part, family, level: force, off: Infinity, held: true };
    source.addEventListener("ended", () => this.forget(note), { once: true }); // Chromium may say so twice
    source.start(begin);
    for (const other of this.notes)
      if (other.part === part && other.time < time && (part.drums ? HATS.has(pitch) && HATS.has(other.pitch) : other.pitch === pitch)) this.damp(other, time, 0.03);
    this.notes.add(note);
    if (this.notes.size > MOST) this.steal(time);
    return note;
  }

  forget(note) {
    this.notes.delete(note);
    this.strips.get(note.part).bend.disconnect(note.source.detune);
  }

  /** A key is released: the tone ends, unless the pedal is down. Drums end by themselves. */
  off(time, note) {
    if (!note || note.part.drums) return;
    note.held = false;
    if (!this.strip(note.part).pedal) this.damp(note, time);
  }

  /** A control of a part changes. Controls and releases come in the order of their times. */
  control(time, part, controller, value) {
    const strip = this.strip(part), begin = Math.max(time, this.now);
    if (controller === PEDAL) {
      strip.pedal = value > 63;
      if (!strip.pedal) for (const note of this.notes) if (note.part === part && !note.held) this.damp(note, time);
    } else if (controller === BEND) strip.bend.offset.setTargetAtTime(value, begin, 0.004);
    else if (controller === PAN) strip.pan.pan.setTargetAtTime(Math.max(-1, (value - 64) / 63), begin, 0.01);
    else {
      strip[controller] = value;
      strip.level.gain.setTargetAtTime(((strip[VOLUME] / 100) * (strip[EXPRESSION] / 127)) ** 2, begin, 0.01);
    }
  }

  damp(note, time, seconds = note.family.fall(note.pitch)) {
    if (note.off <= time) return;
    note.off = time;
    note.held = false;
    note.gain.gain.setTargetAtTime(0, Math.max(time, this.now), seconds);
    note.source.stop(Math.max(time, this.now) + 8 * seconds);
  }

  steal(time) {
    this.stats.stolen++;
    let weakest = null, least = Infinity;
    for (const note of this.notes) {
      const value = note.off < Infinity ? -1 / (1 + time - note.off) : note.level / (1 + 2 * (time - note.time)) + (note.held ? 1 : 0);
      if (note.time < time - 0.05 && value < least) [weakest, least] = [note, value];
    }
    if (weakest) {
      this.notes.delete(weakest);
      this.damp(weakest, time, 0.02);
    }
  }

  /** Everything stops, also what is scheduled and has not begun. */
  silence() {
    for (const strip of this.strips.values()) {
      strip.pedal = false;
      for (const one of [strip.level.gain, strip.pan.pan, strip.bend.offset]) one.cancelScheduledValues(this.now);
    }
    for (const note of this.notes) {
      note.off = Infinity;
      if (note.time > this.now) note.source.stop();
      else this.damp(note, this.now, 0.06);
    }
    this.notes.clear();
  }
}

/** The pitch nearest to one that has a sound; drums have only their own. */
function nearest(sounds, pitch, exact) {
  for (let away = 0; away < (exact ? 1 : 100); away++) {
    if (sounds?.has(pitch - away)) return pitch - away;
    if (sounds?.has(pitch + away)) return pitch + away;
  }
  return null;
}

function hall(context) {
  const buffer = new AudioBuffer({ numberOfChannels: 2, length: Math.round(1.3 * context.sampleRate), sampleRate: context.sampleRate });
  for (let side = 0; side < 2; side++) {
    const echo = buffer.getChannelData(side);
    let dull = 0;
    for (let i = 0; i < echo.length; i++) {
      const time = i / context.sampleRate;
      dull += 0.32 * (Math.random() * 2 - 1 - dull);
      echo[i] = dull * Math.exp(-time / 0.26) * Math.min(1, time / 0.012) * Math.min(1, (1.3 - time) / 0.1);
    }
  }
  return buffer;
}
