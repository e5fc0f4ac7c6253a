// The page of one piece, which plays by itself: see share.html.

import { onTheme } from "./colour.js";
import { Voice } from "./voice.js";
import { Music, Player } from "./player.js";
import { clock, Roll } from "./roll.js";
import { PartList } from "./parts.js";

const $ = (id) => document.getElementById(id);

/** The piece, out of base64 of gzip of JSON: columns, of which the first and the second hold differences. */
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const piece = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  return { ...piece, notes: inRows(piece.notes, true), controls: inRows(piece.controls, false) };
}

function inRows(columns, ends) {
  const rows = [];
  let time = 0;
  for (let i = 0; i < columns[0].length; i++) {
    time += columns[0][i];
    rows.push(time, ends ? time + columns[1][i] : columns[1][i], ...columns.slice(2).map((column) => column[i]));
  }
  return rows;
}

const piece = await unpack($("music").textContent);
const voice = new Voice(URL.createObjectURL(new Blob([$("sounds").textContent], { type: "text/javascript" })));
const music = new Music(piece.block);
const player = new Player(music, voice);
music.head(piece.parts);
music.set({ ...piece, from: 0, to: piece.blocks });
voice.need(piece.parts.map(({ family }) => family));
const all = new Map([[0, 1]]);
const roll = new Roll($("roll"), player, {
  seek(seconds) {
    player.seek(seconds);
    roll.dirty = true;
  },
  loop(loop) {
    player.loop = loop;
    player.repeat = !!loop;
  },
  weights: () => all,
});
roll.changed(0, piece.blocks);
const parts = new PartList($("parts"), music, () => {
  voice.hear();
  roll.refresh();
});
parts.show();
onTheme(() => {
  parts.show(true);
  roll.refresh();
});

async function toggle() {
  if (player.playing) return player.pause();
  await player.play();
  roll.follow = true;
}

$("play").onclick = toggle;
$("volume").oninput = () => (voice.gain = +$("volume").value);
addEventListener("keydown", (event) => {
  if (event.key !== " " || event.target.tagName === "BUTTON") return;
  event.preventDefault();
  toggle();
});

function frame() {
  roll.frame();
  document.body.classList.toggle("playing", player.playing);
  const text = `${clock(player.position)} / ${clock(music.seconds)}`;
  if ($("time").textContent !== text) {
    $("time").textContent = text;
    $("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
    roll.canvas.setAttribute("aria-valuemax", Math.round(music.seconds));
    roll.canvas.setAttribute("aria-valuenow", Math.round(player.position));
    roll.canvas.setAttribute("aria-valuetext", text.replace("/", "of"));
  }
  requestAnimationFrame(frame);
}

requestAnimationFrame(frame);
globalThis.shared = { music, player, voice, roll }; // for tests, and the curious
