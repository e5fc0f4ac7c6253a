// A device behind Web MIDI, with the same few words as the voice. Each part has a channel; drums have channel 10.

import { BEND } from "./voice.js";

const RANGE = 24; // semitones of full pitch bend

export class MidiOut {
  constructor(port, clock) {
    Object.assign(this, { port, clock, stats: { notes: 0 }, channels: new Map() });
  }

  send(time, ...bytes) {
    this.port.send(bytes, performance.now() + (time - this.clock.now) * 1000);
  }

  channel(time, part) {
    let channel = this.channels.get(part);
    if (channel === undefined) {
      const free = [...Array(16).keys()].filter((one) => one !== 9);
      channel = part.drums ? 9 : free[[...this.channels.values()].filter((one) => one !== 9).length % free.length];
      this.channels.set(part, channel);
      this.send(time, 0xc0 | channel, part.program);
      for (const [controller, value] of [[101, 0], [100, 0], [6, RANGE], [38, 0]]) this.send(time, 0xb0 | channel, controller, value);
    }
    return channel;
  }

  on(time, pitch, velocity, part) {
    if (!part.heard) return null;
    const channel = this.channel(time, part);
    this.send(time, 0x90 | channel, pitch, velocity);
    return { pitch, channel };
  }

  off(time, note) {
    if (note) this.send(time, 0x80 | note.channel, note.pitch, 64);
  }

  control(time, part, controller, value) {
    const channel = this.channel(time, part);
    if (controller === BEND) {
      const bend = Math.min(16383, Math.max(0, Math.round(8192 + (value / 100 / RANGE) * 8192)));
      this.send(time, 0xe0 | channel, bend & 127, bend >> 7);
    } else this.send(time, 0xb0 | channel, controller, value);
  }

  lift() {} // a device has a volume of its own

  hear() {
    for (const [part, channel] of this.channels) if (!part.heard) this.port.send([0xb0 | channel, 123, 0]);
  }

  silence() {
    this.port.clear?.();
    for (const channel of this.channels.values()) for (const controller of [64, 123]) this.port.send([0xb0 | channel, controller, 0]);
  }
}

/** Lets a select choose between the page's voice and a MIDI device, where the browser knows of these. */
export function askForDevice(select, player, voice, attempt) {
  if (!navigator.requestMIDIAccess) return;
  select.hidden = false;
  select.append(new Option("MIDI device…", "ask"));
  let access = null;
  select.onchange = () => attempt(async () => {
    if (select.value === "ask") {
      access = await navigator.requestMIDIAccess();
      const ports = [...access.outputs.values()];
      select.replaceChildren(new Option("This page", ""), ...ports.map((port) => new Option(port.name, port.id)));
      if (!ports.length) throw new Error("No MIDI device is connected");
      select.value = ports[0].id;
    }
    const port = access?.outputs.get(select.value);
    player.sink.silence();
    player.sink = port ? new MidiOut(port, voice) : voice;
  });
}
