// A worker that makes piano strings: for every third key a sound of stiff, slightly detuned partials and a hammer.

const RATE = 32000;

function string(pitch) {
  const base = 440 * 2 ** ((pitch - 69) / 12);
  const seconds = Math.min(8, Math.max(1.6, 9 - (pitch - 24) * 0.09));
  const sound = new Float32Array(Math.round(seconds * RATE));
  const stiffness = 2.5e-4 * 2 ** (Math.max(pitch - 60, -18) / 8);
  const count = Math.min(26, Math.floor(11000 / base) || 1);
  for (let partial = 1; partial <= count; partial++) {
    const frequency = partial * base * Math.sqrt((1 + stiffness * partial ** 2) / (1 + stiffness));
    if (frequency > 13000) break;
    const level = (0.35 + Math.abs(Math.sin(Math.PI * partial * 0.118))) * partial ** -0.85 * Math.exp(-frequency / 3800);
    const half = 2.6 * 2 ** (-(pitch - 48) / 17) / (1 + 0.00042 * frequency); // seconds until the loud part is halved
    ring(sound, frequency, level, half * 0.55, partial * 1.7);
    ring(sound, frequency * (1 + 0.00032), level * 0.42, half * 2.6, partial * 2.9 + 1);
  }
  hammer(sound, pitch);
  let peak = 0;
  for (const value of sound) peak = Math.max(peak, Math.abs(value));
  const tail = Math.round(0.25 * RATE), rise = Math.round(0.0012 * RATE);
  for (let i = 0; i < sound.length; i++) {
    const left = sound.length - i;
    sound[i] *= (0.7 / peak) * Math.min(1, i / rise) * Math.min(1, left / tail);
  }
  return sound;
}

/** Adds a dying sine, by a recurrence of two products a sample. */
function ring(sound, frequency, level, half, phase) {
  const turn = (2 * Math.PI * frequency) / RATE;
  const decay = 0.5 ** (1 / (half * RATE));
  const first = 2 * decay * Math.cos(turn), second = decay * decay;
  let before = level * Math.sin(phase), now = level * decay * Math.sin(phase + turn);
  const length = Math.min(sound.length, Math.round(half * RATE * 14));
  for (let i = 0; i < length; i++) {
    sound[i] += before;
    const next = first * now - second * before;
    before = now;
    now = next;
  }
}

/** Adds the knock of the hammer: a few milliseconds of dull noise. */
function hammer(sound, pitch) {
  let state = 1234 + pitch, dull = 0;
  const softness = 0.12 + 0.25 * ((pitch - 24) / 84);
  for (let i = 0; i < 0.04 * RATE; i++) {
    state = (state * 1103515245 + 12345) & 0x7fffffff;
    dull += softness * (state / 0x40000000 - 1 - dull);
    sound[i] += 0.5 * dull * Math.exp(-i / (0.007 * RATE));
  }
}

onmessage = ({ data: pitches }) => {
  for (const pitch of pitches) {
    const sound = string(pitch);
    postMessage({ pitch, rate: RATE, sound }, [sound.buffer]);
  }
};
