// A piano of our own in WebAudio. Times are the audio context's, in seconds; a note is known by what `on` returns.

const MOST = 112; // notes at once
const FIRST = [60, 72, 48]; // strings made first: sound can start

export class Voice {
  constructor() {
    this.strings = new Map();
    this.ready = new Promise((resolve) => (this.haveStrings = resolve));
    this.notes = new Set();
    this.pedal = false;
    this.stats = { notes: 0, late: 0, latest: 0, stolen: 0 };
    const pitches = [...FIRST];
    for (let pitch = 24; pitch <= 108; pitch += 3) if (!pitches.includes(pitch)) pitches.push(pitch);
    const worker = new Worker("strings.js");
    worker.onmessage = ({ data: { pitch, rate, sound } }) => {
      const buffer = new AudioBuffer({ length: sound.length, sampleRate: rate });
      buffer.copyToChannel(sound, 0);
      this.strings.set(pitch, buffer);
      if (this.strings.size === FIRST.length) this.haveStrings();
      if (this.strings.size === pitches.length) worker.terminate();
    };
    worker.postMessage(pitches);
  }

  get now() {
    return this.context?.currentTime ?? 0;
  }

  /** Starts the sound; browsers allow that in answer to a gesture. */
  async start() {
    if (!this.context) this.build();
    await Promise.all([this.context.resume(), this.ready]);
  }

  build() {
    const context = (this.context = new AudioContext({ latencyHint: "interactive" }));
    this.volume = new GainNode(context, { gain: this.level ?? 0.8 });
    const limiter = new DynamicsCompressorNode(context, { threshold: -9, knee: 8, ratio: 18, attack: 0.002, release: 0.18 });
    this.analyser = new AnalyserNode(context, { fftSize: 2048 });
    const room = new ConvolverNode(context, { buffer: hall(context) });
    const wet = new GainNode(context, { gain: 0.22 });
    this.sides = [-0.35, -0.18, 0, 0.18, 0.35].map((pan) => new StereoPannerNode(context, { pan }));
    for (const side of this.sides) {
      side.connect(this.volume);
      side.connect(room);
    }
    room.connect(wet).connect(this.volume);
    this.volume.connect(limiter).connect(this.analyser).connect(context.destination);
  }

  set gain(level) {
    this.level = level;
    this.volume?.gain.setTargetAtTime(level, this.now, 0.02);
  }

  on(time, pitch, velocity) {
    const { context, stats } = this;
    stats.notes++;
    if (time < context.currentTime) {
      stats.late++;
      stats.latest = Math.max(stats.latest, context.currentTime - time);
    }
    let key = pitch;
    for (let away = 0; away < 60; away++) {
      if (this.strings.has(pitch - away)) { key = pitch - away; break; }
      if (this.strings.has(pitch + away)) { key = pitch + away; break; }
    }
    const force = velocity / 127;
    const source = new AudioBufferSourceNode(context, { buffer: this.strings.get(key), playbackRate: 2 ** ((pitch - key) / 12) });
    const base = 440 * 2 ** ((pitch - 69) / 12);
    const tone = new BiquadFilterNode(context, { type: "lowpass", Q: 0.1, frequency: Math.min(15000, base * 1.2 + 260 + 9500 * force ** 2.1) });
    const gain = new GainNode(context, { gain: 0.62 * force ** 1.55 });
    source.connect(tone).connect(gain).connect(this.sides[Math.min(4, Math.max(0, Math.floor((pitch - 28) / 13)))]);
    const note = { source, gain, pitch, time, level: force, off: Infinity, held: true };
    source.onended = () => this.notes.delete(note);
    source.start(Math.max(time, context.currentTime));
    for (const other of this.notes) if (other.pitch === pitch && other.time < time) this.damp(other, time, 0.03);
    this.notes.add(note);
    if (this.notes.size > MOST) this.steal(time);
    return note;
  }

  /** A key is released: the damper falls, unless the pedal is down. */
  off(time, note) {
    note.held = false;
    if (!this.pedal) this.damp(note, time);
  }

  /** The sustain pedal moves. Moves and releases come in the order of their times. */
  sustain(time, down) {
    this.pedal = down;
    if (!down) for (const note of this.notes) if (!note.held) this.damp(note, time);
  }

  damp(note, time, seconds = note.pitch > 90 ? 0.35 : 0.05 + 0.0016 * Math.max(0, 70 - note.pitch)) {
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
    this.pedal = false;
    for (const note of this.notes) {
      note.off = Infinity;
      if (note.time > this.now) note.source.stop();
      else this.damp(note, this.now, 0.06);
    }
    this.notes.clear();
  }
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

/** A device behind Web MIDI, with the same few words as the voice. */
export class MidiOut {
  constructor(port, clock) {
    Object.assign(this, { port, clock, stats: { notes: 0 } });
  }

  at(time) {
    return performance.now() + (time - this.clock.now) * 1000;
  }

  on(time, pitch, velocity) {
    this.port.send([0x90, pitch, velocity], this.at(time));
    return { pitch };
  }

  off(time, { pitch }) {
    this.port.send([0x80, pitch, 64], this.at(time));
  }

  sustain(time, down) {
    this.port.send([0xb0, 64, down ? 127 : 0], this.at(time));
  }

  silence() {
    this.port.clear?.();
    this.port.send([0xb0, 64, 0]);
    this.port.send([0xb0, 123, 0]);
  }
}
