"""How well a run plays back a folder: sampled files against source files, scored by mir_eval.

    python benchmarks/recall.py --dir midis/ --run runs/default [--json recall.json]

Plays every song of the run back with `run.py sample --song all` and compares each file with its source, both read with
mido: nothing of this project's own reading or scoring is involved. Notes match only if they have the same
instrument too. Needs the extra `benchmark`.
"""

import json
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import mido
import mir_eval
import numpy as np
import report

INSTRUMENT_CENTS, TOLERANCE_CENTS = 0.5, 0.2  # instruments are tuned apart, so that notes match only within one


def read(path: Path) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Of a file: intervals in seconds, pitches in Hz and velocities of its notes; times and values of sustain pedals.

    A drum hit is as short as any.
    """
    now, programs, sounding, notes, pedal = 0.0, [0] * 16, {}, [], []
    for message in mido.MidiFile(path, clip=True):
        now += message.time
        if message.type == "program_change":
            programs[message.channel] = message.program
        elif message.is_cc(64):
            pedal.append((now, message.value))
        elif message.type in ("note_on", "note_off"):
            is_drum, key = message.channel == 9, (message.channel, message.note)
            if key in sounding:
                start, velocity, instrument = sounding.pop(key)
                end = start + 0.05 if is_drum else max(now, start + 0.001)
                notes.append((start, end, message.note + instrument * INSTRUMENT_CENTS / 100, velocity))
            if message.type == "note_on" and message.velocity:
                sounding[key] = now, message.velocity, 128 if is_drum else programs[message.channel]
    start, end, pitch, velocity = np.array(notes).reshape(-1, 4).T
    return (np.stack([start, end], 1), mir_eval.util.midi_to_hz(pitch), velocity), np.array(pedal).reshape(-1, 2)


def pedal_down(events: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Whether the sustain pedal is down at each time."""
    return np.append(0, events[:, 1])[np.searchsorted(events[:, 0], times, side="right")] >= 64


def compare(source: Path, played: Path) -> dict[str, float]:
    """mir_eval's note F1 at three levels of strictness, median onset error in seconds, share of equal pedal."""
    (reference, pedal), (estimate, played_pedal) = read(source), read(played)
    score = partial(mir_eval.transcription.precision_recall_f1_overlap, pitch_tolerance=TOLERANCE_CENTS)
    with_velocity = mir_eval.transcription_velocity.precision_recall_f1_overlap
    matched = mir_eval.transcription.match_notes(
        *reference[:2],
        *estimate[:2],
        pitch_tolerance=TOLERANCE_CENTS,
        offset_ratio=None,  # pyright: ignore[reportArgumentType]
    )
    errors = [abs(reference[0][i, 0] - estimate[0][j, 0]) for i, j in matched]
    times = np.arange(0, reference[0].max(), 0.005)
    return {
        "onset": score(*reference[:2], *estimate[:2], offset_ratio=None)[2],  # pyright: ignore[reportArgumentType]
        "offset": score(*reference[:2], *estimate[:2])[2],
        "velocity": with_velocity(*reference, *estimate, pitch_tolerance=TOLERANCE_CENTS)[2],
        "onset_error_seconds": float(np.median(errors)) if errors else float("nan"),
        "pedal": float(np.mean(pedal_down(pedal, times) == pedal_down(played_pedal, times))),
    }


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/default"))
    args = parser.parse_args()
    songs = json.loads(subprocess.check_output([*report.RUN_PY, "songs", "--json", "--run", str(args.run)]))
    with tempfile.TemporaryDirectory() as folder:
        out = ["--song", "all", "--run", str(args.run), "--out", folder]
        subprocess.run([*report.RUN_PY, "sample", *out], check=True, stdout=subprocess.DEVNULL)
        rows = [
            {"name": song["name"]} | compare(args.dir / Path(song["path"]).name, played)
            for song, played in zip(songs, sorted(Path(folder).glob("*.mid")), strict=True)
        ]
    fields = ("onset", "offset", "velocity", "pedal", "onset_error_seconds")
    mean = {field: float(np.nanmean([row[field] for row in rows])) for field in fields}
    print(f"{'song':45} {'onset':>8} {'+end':>8} {'+veloc.':>8} {'pedal':>8} {'error':>9}")
    for row in [*rows, {"name": "mean"} | mean]:
        numbers = " ".join(f"{row[field]:8.4f}" for field in fields[:4])
        print(f"{row['name'][:45]:45} {numbers} {row['onset_error_seconds'] * 1000:6.2f} ms")
    report.write(args, {"songs": rows, "mean": mean})


if __name__ == "__main__":
    main()
