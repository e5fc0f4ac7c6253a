// Names of songs, shortened so that both ends can be read, and what a piece is called.

/** A name without the parts that file names repeat: `Composer__Piece__2004_take.mid` and the like. */
export function plain(name) {
  const parts = name.split(/__+/).map((part) => part.replaceAll("_", " ").trim()).filter(Boolean);
  if (parts.length > 3 || (parts.length > 1 && /^\d{4}\b/.test(parts.at(-1)))) parts.pop(); // a year, or a number
  return parts.join(" · ");
}

/** At most so many letters of a text, with its middle left out. */
export function middle(text, most) {
  if (text.length <= most) return text;
  const end = Math.floor((most - 1) / 2);
  return `${text.slice(0, most - 1 - end).trimEnd()}…${text.slice(-end).trimStart()}`;
}

const percent = (weight) => `${Math.round(weight * 100)} %`;

/** What a piece is made of, song by song, for a reader. */
export function describe(state, rows, short) {
  if (state.random) {
    const [form, ...players] = state.drawn?.songs ?? [];
    return form === undefined ? [] : [`form and harmony of ${short(form)}`, `played by ${[...new Set(players)].map(short).join(" and ")}`];
  }
  if (state.path) return [stops(rows).map(short).join(" to ")];
  return [...rows[0]].sort((a, b) => b[1] - a[1]).map(([song, weight]) => `${percent(weight)} ${short(song)}`);
}

/** The songs that lead along a path, in order. */
export function stops(rows) {
  const leaders = rows.map((row) => [...row].reduce((a, b) => (b[1] > a[1] ? b : a))[0]);
  return leaders.filter((song, i) => song !== leaders[i - 1]);
}

/** A name for a file: the songs of a piece, fit for any system. */
export function fileName(state, rows, short) {
  const songs = [...rows[0]].sort((a, b) => b[1] - a[1]);
  const several = songs.length > 1;
  const mixed = songs.map(([song, weight]) => short(song) + (several ? ` ${Math.round(weight * 100)}` : "")).join(" + ");
  const title = state.random ? `random ${state.drawn?.seed ?? state.seed}` : state.path ? stops(rows).map(short).join(" to ") : mixed;
  const varied = state.noise && !state.random ? ` variation ${state.seed}` : "";
  return middle(title.replace(/[\\/:*?"<>|\p{Cc}]/gu, "-"), 100) + varied;
}
