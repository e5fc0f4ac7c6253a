// The connection to the server: requests music, the newest request first; downloads and uploads files.

const PATIENCE = 400; // milliseconds without an answer until the next ask goes out anyway

export class Wire {
  /** `calls`: head(parts, isOpening), stretch(stretch, began), drawn(drawn), guests(guests), wrong(reason), state(open). */
  constructor(calls) {
    this.calls = calls;
    this.number = 0; // of the newest ask
    this.heard = 0; // the newest ask that was answered
    this.delays = [];
    this.connect();
  }

  connect(wait = 300) {
    this.socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/play`);
    this.socket.onopen = () => {
      wait = 300;
      this.calls.state(true);
      this.busy = false;
      if (this.last) this.ask(...this.last);
    };
    this.socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    this.socket.onclose = () => {
      this.calls.state(false);
      setTimeout(() => this.connect(Math.min(wait * 1.7, 5000)), wait);
    };
  }

  /** Asks for a recipe, from a block on. Of asks that come faster than answers only the newest goes out. */
  ask(recipe, from, began = performance.now()) {
    this.last = [recipe, from];
    this.next = { recipe, from, began };
    this.push();
  }

  push() {
    if (!this.next || this.socket.readyState !== WebSocket.OPEN) return;
    if (this.busy && performance.now() - this.sent < PATIENCE) {
      clearTimeout(this.later);
      this.later = setTimeout(() => this.push(), PATIENCE);
      return;
    }
    const { recipe, from, began } = this.next;
    this.next = null;
    this.busy = true;
    this.sent = performance.now();
    this.began = began;
    this.socket.send(JSON.stringify({ ask: ++this.number, recipe, from }));
  }

  take(message) {
    if (message.kind === "guests") return this.calls.guests(message.guests);
    if (message.ask < this.heard) return; // of an older ask
    const first = message.ask > this.heard;
    if (message.kind === "head") this.calls.head(message.parts, message.opening);
    if (message.kind === "stretch") this.heard = message.ask;
    if (message.kind === "stretch") this.calls.stretch(message, first && message.ask === this.number ? this.began : null);
    if (message.kind === "drawn") this.calls.drawn(message);
    if (message.kind === "wrong") this.calls.wrong(message.reason);
    if (message.ask === this.number && message.kind !== "drawn" && message.kind !== "head") {
      this.busy = false;
      this.push();
    }
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
