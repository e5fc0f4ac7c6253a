// Every song has the colour of its place on the pad; what lies between songs has the colour that lies between theirs.

const scheme = matchMedia("(prefers-color-scheme: dark)");
let dark = scheme.matches; // asked for with every note that is drawn
const partColours = new Map(); // those of the theme
scheme.addEventListener("change", () => {
  dark = scheme.matches;
  partColours.clear();
});
export const isDark = () => dark;
export const onTheme = (call) => scheme.addEventListener("change", call);

const GOLDEN = 137.508; // degrees between the hues of parts
const LEAST = 0.5; // of a colour's strength that mixtures and the middle of the pad keep
const TURN = -2.2; // radians by which the hues are turned on the pad
const directions = new Map(); // song -> OKLab a and b, of length 1 at the edge of the pad

/** The direction of a place in the plane of hues. */
function direction({ x, y }) {
  const [across, down] = [2 * x - 1, 2 * y - 1];
  const angle = Math.atan2(down, across) + TURN, length = Math.min(1, LEAST + 0.7 * Math.hypot(across, down));
  return [length * Math.cos(angle), length * Math.sin(angle)];
}

/** Gives a song the colour of a place on the pad. */
export const setPlace = (song, place) => directions.set(song, direction(place));

/** The colour [r, g, b] (0 to 255) between songs, given as [song, weight] pairs with a sum of 1. */
export function blend(pairs, lightness, chroma) {
  let a = 0, b = 0;
  for (const [song, weight] of pairs) {
    const [da, db] = directions.get(song) ?? [1, 0];
    a += da * weight;
    b += db * weight;
  }
  return shade([a, b], lightness, chroma);
}

/** The colour of a place on the pad. */
export const placeColour = (place, lightness, chroma) => shade(direction(place), lightness, chroma);

function shade([a, b], lightness, chroma) {
  const length = Math.hypot(a, b) || 1;
  const strength = (chroma * Math.max(length, LEAST)) / length; // mixtures do not turn grey
  return rgb(lightness, a * strength, b * strength);
}

export const css = ([r, g, b], alpha = 1) => `rgb(${r | 0} ${g | 0} ${b | 0} / ${alpha})`;

/** A song's own colour, for text and marks. */
export const ink = (song, alpha = 1) => css(blend([[song, 1]], isDark() ? 0.78 : 0.56, isDark() ? 0.14 : 0.17), alpha);

/** The colour of a part, by the number of its hue, and drums in grey; `force` 0 to 1 is how loud, 2 sounding. */
export function partColour(part, force = 0.7, alpha = 1) {
  const key = ((part.hue * 2 + part.drums) * 256 + Math.round(100 * force)) * 128 + Math.round(100 * alpha);
  if (!partColours.has(key)) partColours.set(key, makePartColour(part, force, alpha));
  return partColours.get(key);
}

function makePartColour(part, force, alpha) {
  const angle = ((78 + part.hue * GOLDEN) * Math.PI) / 180;
  const lift = part.hue % 2 ? 0.05 : -0.02; // neighbours differ in lightness too
  const lightness = force > 1 ? (dark ? 0.97 : 0.36) : lift + (dark ? 0.45 + 0.38 * force : 0.8 - 0.3 * force);
  return css(shade([Math.cos(angle), Math.sin(angle)], lightness, part.drums ? 0.012 : 0.08 + 0.09 * Math.min(force, 1)), alpha);
}

function rgb(lightness, a, b) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((v) => 255 * Math.min(1, Math.max(0, v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055)));
}
