// A worker that makes the sounds of instruments, without samples: struck and plucked strings of stiff, slightly detuned
// partials, loops of harmonics for what lasts, and a drum kit of falling sines and noise.

const RATE = 32000;
const TOP = 11000; // hertz of the highest partial

const hertz = (pitch) => 440 * 2 ** ((pitch - 69) / 12);

const STRINGS = {
  piano: {
    seconds: (pitch) => Math.min(8, Math.max(1.6, 9 - (pitch - 24) * 0.09)),
    stiffness: 2.5e-4,
    level: (partial, frequency) => (0.35 + Math.abs(Math.sin(Math.PI * partial * 0.118))) * partial ** -0.85 * Math.exp(-frequency / 3800),
    half: (pitch, frequency) => (2.6 * 2 ** (-(pitch - 48) / 17)) / (1 + 0.00042 * frequency), // seconds until the loud part is halved
    slow: 0.42,
    knock: 0.5,
  },
  plucked: {
    seconds: (pitch) => Math.min(4, Math.max(1, 4.6 - (pitch - 36) * 0.06)),
    stiffness: 2e-5,
    level: (partial, frequency) => Math.abs(Math.sin(Math.PI * partial * 0.093)) * partial ** -0.75 * Math.exp(-frequency / 4200),
    half: (pitch, frequency) => (1.1 * 2 ** (-(pitch - 48) / 19)) / (1 + 0.0011 * frequency),
    slow: 0.12,
    knock: 0.2,
  },
  bass: {
    seconds: () => 4,
    stiffness: 5e-5,
    level: (partial, frequency) => (0.3 + Math.abs(Math.sin(Math.PI * partial * 0.21))) / partial * Math.exp(-frequency / 520),
    half: (pitch, frequency) => (1.9 * 2 ** (-(pitch - 36) / 24)) / (1 + 0.0016 * frequency),
    slow: 0.2,
    knock: 0.25,
  },
};

function string(kind, pitch) {
  const base = hertz(pitch);
  const sound = new Float32Array(Math.round(kind.seconds(pitch) * RATE));
  const stiffness = kind.stiffness * 2 ** (Math.max(pitch - 60, -18) / 8);
  const count = Math.min(26, Math.floor(TOP / base) || 1);
  for (let partial = 1; partial <= count; partial++) {
    const frequency = partial * base * Math.sqrt((1 + stiffness * partial ** 2) / (1 + stiffness));
    if (frequency > 13000) break;
    const level = kind.level(partial, frequency), half = kind.half(pitch, frequency);
    ring(sound, frequency, level, half * 0.55, partial * 1.7);
    ring(sound, frequency * (1 + 0.00032), level * kind.slow, half * 2.6, partial * 2.9 + 1);
  }
  hammer(sound, pitch, kind.knock);
  return edged(sound, 0.7, 0.0012, 0.25);
}

/** Scales a sound to a peak, and fades its ends. */
function edged(sound, level, rise, tail) {
  let peak = 0;
  for (const value of sound) peak = Math.max(peak, Math.abs(value));
  for (let i = 0; i < sound.length; i++)
    sound[i] *= (level / peak) * Math.min(1, i / (rise * RATE)) * Math.min(1, (sound.length - i) / (tail * RATE));
  return sound;
}

/** Adds a dying sine, by a recurrence of two products a sample. */
function ring(sound, frequency, level, half, phase) {
  const turn = (2 * Math.PI * frequency) / RATE;
  const decay = 0.5 ** (1 / (half * RATE));
  const first = 2 * decay * Math.cos(turn), second = decay * decay;
  let before = level * Math.sin(phase), now = level * decay * Math.sin(phase + turn);
  const length = Math.min(sound.length, half < Infinity ? Math.round(half * RATE * 14) : Infinity);
  for (let i = 0; i < length; i++) {
    sound[i] += before;
    const next = first * now - second * before;
    before = now;
    now = next;
  }
}

/** Numbers from -1 to 1, the same for the same seed. */
function noise(seed) {
  let state = seed;
  return () => {
    state = (state * 1103515245 + 12345) & 0x7fffffff;
    return state / 0x40000000 - 1;
  };
}

/** Adds the knock of a hammer or a finger: a few milliseconds of dull noise. */
function hammer(sound, pitch, level) {
  const next = noise(1234 + pitch);
  let dull = 0;
  const softness = 0.12 + 0.25 * ((pitch - 24) / 84);
  for (let i = 0; i < 0.04 * RATE; i++) {
    dull += softness * (next() - dull);
    sound[i] += level * dull * Math.exp(-i / (0.007 * RATE));
  }
}

const WAVES = {
  bowed: { slope: 1.1, reach: 2400, spread: 0.5, width: 0.0035 },
  lead: { slope: 0.55, reach: 2300, spread: 0.25, width: 0.0012 },
};

/** A loop of whole periods, about 2 s: harmonics, each with two weaker ones beside it, so that it is not quite steady. */
function wave({ slope, reach, spread, width }, pitch) {
  const periods = Math.round(2 * hertz(pitch));
  const sound = new Float32Array(Math.round((periods * RATE) / hertz(pitch)));
  const next = noise(77 + pitch);
  const turn = RATE / sound.length;
  for (let partial = 1; partial * periods * turn < TOP || partial === 1; partial++) {
    const level = partial ** -slope * Math.exp(-(partial - 1) * periods * turn / reach);
    const beside = Math.max(1, Math.round(width * partial * periods));
    for (const [away, share] of [[0, 1], [-beside, spread], [beside, spread]])
      ring(sound, (partial * periods + away) * turn, level * share, Infinity, away ? Math.PI * next() : 2.4 * partial);
  }
  let power = 0;
  for (const value of sound) power += value * value;
  const scale = 0.16 / Math.sqrt(power / sound.length);
  return sound.map((value) => scale * value);
}

// A drum: [hertz of a sine, by how much higher it begins, its level and its half-life in seconds, level of noise, its
// half-life, hertz between which it is].
const KICK = [50, 4, 1, 0.05, 0.12, 0.004, 1500, 6000], SNARE = [185, 1.4, 0.33, 0.02, 0.35, 0.03, 900, 11000];
const TOM = [100, 1.7, 0.75, 0.07, 0.06, 0.01, 300, 4000], SKIN = [250, 1.25, 0.62, 0.032, 0.06, 0.004, 800, 6000];
const WOOD = [900, 1, 0.56, 0.009, 0.12, 0.003, 1500, 9000], BELL = [600, 1, 0.4, 0.035, 0.02, 0.01, 3000, 9000];
const CLAP = [0, 1, 0, 0, 0.37, 0.025, 900, 6000], SHAKER = [0, 1, 0, 0, 0.19, 0.012, 5000, 15000];
const HAT = [0, 1, 0, 0, 0.21, 0.011, 6500, 15000], CRASH = [0, 1, 0, 0, 0.2, 0.21, 2500, 14000], RIDE = [3150, 1, 0.04, 0.1, 0.1, 0.13, 4500, 14000];
const tuned = ([, ...rest], hertz, half) => (half ? [hertz, rest[0], rest[1], half, ...rest.slice(3)] : [hertz, ...rest]);
const ringing = (drum, half) => drum.with(5, half);
const KIT = {
  35: KICK, 36: KICK, 37: tuned(WOOD, 430), 38: SNARE, 39: CLAP, 40: tuned(SNARE, 215),
  41: tuned(TOM, 68), 43: tuned(TOM, 82), 45: tuned(TOM, 100), 47: tuned(TOM, 120), 48: tuned(TOM, 140), 50: tuned(TOM, 170),
  42: HAT, 44: ringing(HAT, 0.008), 46: ringing(HAT, 0.07), 49: CRASH, 57: CRASH, 52: ringing(CRASH, 0.14), 55: ringing(CRASH, 0.08),
  51: RIDE, 59: RIDE, 53: tuned(RIDE, 2600).with(2, 0.22), 54: ringing(SHAKER, 0.028), 58: ringing(SHAKER, 0.045), 69: SHAKER, 70: SHAKER, 82: SHAKER,
  73: ringing(SHAKER, 0.02), 74: ringing(SHAKER, 0.045), 83: ringing(SHAKER, 0.03), 84: ringing(SHAKER, 0.08),
  56: tuned(BELL, 540), 67: tuned(BELL, 900), 68: tuned(BELL, 680), 80: tuned(BELL, 4400, 0.012), 81: tuned(BELL, 4400, 0.14),
  60: tuned(SKIN, 400), 61: tuned(SKIN, 300), 62: tuned(SKIN, 330), 63: tuned(SKIN, 290), 64: tuned(SKIN, 200), 65: tuned(SKIN, 340), 66: tuned(SKIN, 240),
  75: tuned(WOOD, 2500), 76: tuned(WOOD, 1050), 77: tuned(WOOD, 760), 78: tuned(SKIN, 520), 79: tuned(SKIN, 460), 85: tuned(WOOD, 1900), 86: tuned(TOM, 75), 87: tuned(TOM, 60),
};

function drum(pitch) {
  const [base, fall, tone, toneHalf, level, noiseHalf, low, high] = KIT[pitch] ?? WOOD;
  const sound = new Float32Array(Math.round(Math.min(2, 9 * Math.max(toneHalf, noiseHalf) + 0.02) * RATE));
  const next = noise(500 + pitch);
  const [fast, slow] = [1 - Math.exp((-2 * Math.PI * high) / RATE), 1 - Math.exp((-2 * Math.PI * low) / RATE)];
  let top = 0, bottom = 0, second = 0, power = 0;
  for (let i = 0; i < sound.length; i++) {
    top += fast * (next() - top);
    bottom += slow * (top - bottom); // low frequencies are taken away twice
    second += slow * (top - bottom - second);
    sound[i] = top - bottom - second;
    power += sound[i] ** 2;
  }
  const scale = level / Math.sqrt(power / sound.length);
  let angle = 0;
  for (let i = 0; i < sound.length; i++) {
    const time = i / RATE;
    angle += (2 * Math.PI * base * (1 + (fall - 1) * Math.exp(-time / 0.02))) / RATE;
    sound[i] *= scale * 0.5 ** (time / noiseHalf);
    if (tone) sound[i] += tone * Math.sin(angle) * 0.5 ** (time / toneHalf);
  }
  for (let i = 0; i < 0.01 * RATE; i++) sound[sound.length - 1 - i] *= i / (0.01 * RATE);
  return sound;
}

onmessage = ({ data }) => {
  for (const { family, pitch } of data) {
    const sound = family === "drums" ? drum(pitch) : family in WAVES ? wave(WAVES[family], pitch) : string(STRINGS[family], pitch);
    postMessage({ family, pitch, rate: RATE, sound }, [sound.buffer]);
  }
};
