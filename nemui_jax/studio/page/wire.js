// The connection to the server: requests music, the newest request first; downloads and uploads files.

const GAP = 12; // milliseconds between asks, at least

export class Wire {
  /** `calls`: head(parts, isOpening), stretch(stretch, began), drawn(drawn), guests(guests), wrong(reason), state(open). */
  constructor(calls) {
    this.calls = calls;
    this.number = 0; // of the newest ask
    this.heard = 0; // the newest ask that was answered
    this.sent = -GAP; // when the newest ask went out
    this.moved = new Map(); // by ask that is not answered: when the hand moved
    this.connect();
  }

  connect(wait = 300) {
    this.socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/play`);
    this.socket.onopen = () => {
      wait = 300;
      this.calls.state(true);
      if (this.last) this.ask(...this.last);
    };
    this.socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    this.socket.onclose = () => {
      this.calls.state(false);
      setTimeout(() => this.connect(Math.min(wait * 1.7, 5000)), wait);
    };
  }

  /** Asks for a recipe, from a block on. The server answers the newest ask when it has answered one. */
  ask(recipe, from, began = performance.now()) {
    this.last = [recipe, from];
    this.next = { recipe, from, began };
    clearTimeout(this.later);
    const wait = this.sent + GAP - performance.now();
    if (wait <= 0) this.push();
    else this.later = setTimeout(() => this.push(), wait);
  }

  push() {
    if (!this.next || this.socket.readyState !== WebSocket.OPEN) return;
    const { recipe, from, began } = this.next;
    this.next = null;
    this.sent = performance.now();
    this.moved.set(++this.number, began);
    this.socket.send(JSON.stringify({ ask: this.number, recipe, from }));
  }

  take(message) {
    if (message.kind === "guests") return this.calls.guests(message.guests);
    if (message.ask < this.heard) return; // of an older ask
    if (message.kind === "head") this.calls.head(message.parts, message.opening);
    if (message.kind === "stretch") this.calls.stretch(message, this.answered(message.ask));
    if (message.kind === "drawn") this.calls.drawn(message);
    if (message.kind === "wrong") this.calls.wrong(message.reason);
  }

  /** Notes that an ask is answered; returns when the hand moved, or null where that was known. */
  answered(ask) {
    const began = this.moved.get(ask) ?? null;
    for (const earlier of this.moved.keys()) if (earlier <= ask) this.moved.delete(earlier);
    this.heard = ask;
    return began;
  }
}

/** The server's answer to a request; an Error says in a sentence why there is none. */
async function request(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The studio's server does not answer: start it again in the terminal, then try again");
  }
  if (!answer.ok) throw new Error((await answer.text()) || `The studio's server answers ${answer.status}; try again`);
  return answer;
}

export async function getJson(path) {
  return (await request(path)).json();
}

/** A piece as a file, handed to the browser's downloads. */
export async function download(recipe, ending, name) {
  const answer = await request(`/piece.${ending}`, { method: "POST", body: JSON.stringify(recipe) });
  const url = URL.createObjectURL(await answer.blob());
  const anchor = Object.assign(document.createElement("a"), { href: url, download: `${name}.${ending}` });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** Sends a .mid to be learned. Returns { guest }, its number there, { index } of a song that is there already, or { wrong }. */
export async function bring(file) {
  return (await request(`/bring?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file })).json();
}

/** Has a guest added to the run. */
export async function keep(guest) {
  await request(`/keep?guest=${guest}`, { method: "POST" });
}
