"""Half one song, half another, in E flat: a MIDI file, and its notes as an array.

python examples/mix.py RUN OUT.mid
"""

import sys

import nemui_jax as nemui


def main(folder: str, out: str) -> None:
    run = nemui.load(folder, report=print)
    for song in run.songs:
        print(song.index, song.name, f"{song.seconds:.0f} s, {song.notes} notes in {song.key}, note F1 {song.note_f1}")
    piece = run.mix({0: 0.5, 1: 0.5}, key="Eb", seconds=30)
    piece.write(out)
    print(piece, "to", out)
    print("a piano roll [step, pitch] of", piece.roll().shape, "and the loudest note:", piece.notes["velocity"].max())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
