// Keys that work anywhere on the page, and files that are dropped anywhere on it.

/** `acts`: what keys do, by their names in lower case; `undo`: an Undo. */
export function listenToKeys(acts, undo) {
  addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    if (event.target.matches("input:not([type=range]), select, summary")) return;
    if ((event.ctrlKey || event.metaKey) && (key === "z" || key === "y")) {
      event.preventDefault();
      return key === "y" || event.shiftKey ? undo.forward() : undo.back();
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !acts[key]) return;
    if (key === " " && event.target.tagName === "BUTTON") return;
    event.preventDefault();
    acts[key]();
  });
}

/** Calls `drop` with the files that are dropped; the page shows where while they are above it. */
export function listenToDrops(drop) {
  const dropping = (on) => document.body.classList.toggle("dropping", on);
  addEventListener("dragover", (event) => {
    event.preventDefault();
    dropping(true);
  });
  addEventListener("dragleave", (event) => event.relatedTarget ?? dropping(false));
  addEventListener("drop", (event) => {
    event.preventDefault();
    dropping(false);
    drop([...event.dataTransfer.files]);
  });
}
