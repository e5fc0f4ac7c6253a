"""A run from Python, with the words and options of `run.py sample`, which is made of this too.

    import nemui_jax as nemui

    run = nemui.load("runs/default")
    run.mix({0: 0.5, "joplin": 0.5}, key="Eb").write("mix.mid")

A song is an index, a unique part of a name, or the path of a .mid, which is fitted, or taught for that output alone.
The run's numbers are read, and JAX is imported, when something is first played. Nothing is printed, no setting of JAX
is changed, and the run's files stay as they are. What cannot be done raises RunError, RecipeError or UsageError (all
ValueError), or Failed (a RuntimeError), each with one clear line.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, TypedDict, Unpack

import numpy as np
from jaxtyping import Float, UInt8

from nemui_jax import config, recipe
from nemui_jax.data import dataset, layout, pianoroll
from nemui_jax.errors import Failed, UsageError
from nemui_jax.files import escape
from nemui_jax.model import latents
from nemui_jax.music import midi_writer
from nemui_jax.music.clock import STEADY_BEAT_SECONDS, STEPS_PER_BEAT, steady_clock
from nemui_jax.music.song import MAX_SECONDS, Song, TempoMap, cut_song, retime
from nemui_jax.runs.run import Run, read_run, read_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nemui_jax.model.decoder import Params
    from nemui_jax.sampling.decode import LatentTrack
    from nemui_jax.sampling.select import DecodedSong
else:  # what they come from takes seconds to import
    Figure = Params = LatentTrack = DecodedSong = Any
RANDOM_TRIES = 10  # times the count wanted that new songs are drawn, when some are near-copies
RANDOM_SECONDS = 60.0
TRACKS_KEPT, VOICES_KEPT = 64, 16  # between pieces: a voice of five minutes takes 8 MB
FIT_ENOUGH = 0.9  # recall from which a song with a fitted track is good enough to play with
SongName = SupportsIndex | str | Path
Number = float | int


def load(path: str | Path, tell: Callable[[str], None] = lambda _: None) -> "LoadedRun":
    """The run in a folder; RunError if there is none. `tell` is called with a line about what is done on the way."""
    return LoadedRun(read_run(Path(path)), tell)


class Options(TypedDict, total=False):
    """What all methods that play take, by name."""

    seconds: Number | None  # length (default: the shortest song's; a morph's is its last one's, a new song's a minute)
    key: SupportsIndex | str | None  # such as "Eb", or a song whose key it is (default: the heaviest song's)
    program: int | None  # MIDI program, 0 to 127 (default: the heaviest song's)
    path: str  # between latents: "line" (default), "norm" or "sphere", as in `latents.mix`
    temperature: Number  # draws onsets (default 0: takes the likeliest)
    seed: int  # default 0; the same one gives the same piece


@dataclass(frozen=True)
class KnownSong:
    """A song of a run."""

    index: int
    name: str
    path: str  # of the file that it was learned from
    seconds: float
    notes: int
    key: str
    recall: float | None  # F1 of its onsets, 0 to 1; None where training has not ended


@dataclass(frozen=True, eq=False)
class Piece:
    """What was played: a song, and what it was made of."""

    song: Song
    parents: tuple[Song, ...]  # over the same stretch; none for a new song
    kind: str  # "recall", "mix", "morph" or "new"
    provenance: str  # how to make it again, as the .mid says too
    remark: str = ""  # for a new song the one of the run that it is most like
    stops: tuple[float, ...] = ()  # seconds at which a morph is at each of its parents; none where weights were given

    def __repr__(self) -> str:
        return f"<Piece: {self.kind}, {self.song.name!r}, {self.seconds:.1f} s, {len(self.notes):,} notes>"

    @property
    def notes(self) -> np.ndarray:
        """NOTE events, sorted by onset (seconds), then pitch."""
        return self.song.notes

    @property
    def seconds(self) -> float:
        """The end of the last note."""
        return self.song.seconds

    def roll(self, step_seconds: float = 0.05) -> UInt8[np.ndarray, "step 128"]:
        """The velocity (1 to 127) of the note that sounds on each pitch at each step; 0 where none does."""
        clock = TempoMap.steady(step_seconds * STEPS_PER_BEAT)
        found = np.zeros((pianoroll.count_steps(self.seconds, clock) + 1, 128), np.uint8)
        for note in pianoroll.quantize(self.notes, clock):
            found[note["step"] : note["end"], note["pitch"]] = note["velocity"]
        return found

    def audio(self, soundfont: str | Path | None = None) -> Float[np.ndarray, "sample 2"]:
        """Stereo sound at 44,100 samples a second, within -1 to 1; see `audio.render`."""
        from nemui_jax.outputs import audio

        return audio.render(self.song, None if soundfont is None else Path(soundfont), audio.RATE)

    def plot(self, title: str = "") -> Figure:
        """A picture: of a recall its differences from the song, of a morph its way, else a roll with its parents'.

        A roll's title is `title`, or the name of the piece. UsageError without the extra `plots`.
        """
        plots = import_plots()
        if self.kind == "recall":
            return plots.recall(self.parents[0], self.song, title=self.song.name)
        if self.stops:
            return plots.morph(self.song, [parent.name for parent in self.parents], self.stops)
        return plots.roll(self.song, self.parents, title=title)

    def write(self, path: str | Path, soundfont: str | Path | None = None) -> None:
        """Writes a .mid with its provenance, a .wav or a .png, by the ending: whole or not at all.

        Makes the folder where there is none. UsageError for another ending, OSError where it cannot be written.
        """
        path = Path(path)
        ending = path.suffix.lower()
        if ending not in (".mid", ".midi", ".wav", ".png"):
            raise UsageError(f"{escape(path)}: a piece is written to a .mid, a .wav or a .png")
        path.parent.mkdir(parents=True, exist_ok=True)
        if ending == ".wav":
            from nemui_jax.outputs import audio

            audio.write_wav(path, self.audio(soundfont))
        elif ending == ".png":
            import_plots().save(self.plot(title=path.stem), path)
        else:
            midi_writer.write(self.song, path, self.provenance)


@dataclass(frozen=True)
class Plan:
    """One piece to be played: whose tracks, with which weights."""

    songs: tuple[int | Path, ...]
    # One a song, for all of the piece; or [song, point], at points spread evenly over it; or None: from song to song.
    weights: tuple[float, ...] | Float[np.ndarray, "song point"] | None
    recipe: Mapping[str, Any]  # what was asked for, in the words of the command line
    noise: float = 0.0
    seed: int = 0


class _Known(NamedTuple):
    """A model, the run's or one that was taught more for one output."""

    step: int  # of the run's checkpoint
    config: config.Config
    params: Params
    track: Callable[[Any], LatentTrack]  # of a song, an index or a path
    voice: Callable[[Any, int], DecodedSong]  # of a song, over so many blocks
    unit: Callable[[], Float[Any, " latent"]]  # of noise


@dataclass(frozen=True)
class LoadedRun:
    """A run to play: `song`, `mix`, `morph`, `perturb` and `random` give a Piece; all take the Options by name."""

    run: Run
    tell: Callable[[str], None] = lambda _: None
    max_seconds: float = MAX_SECONDS  # that a song in a file may last

    def __repr__(self) -> str:
        return f"<LoadedRun: {self.run.path}, {len(self.run.entries)} songs>"

    @property
    def config(self) -> config.Config:
        """The configuration that it was trained with."""
        return self.run.config

    @cached_property
    def songs(self) -> tuple[KnownSong, ...]:
        """The songs that it knows, in order."""
        return tuple(
            KnownSong(i, entry.name, entry.path, entry.seconds, entry.notes, entry.key, recall.get("onset"))
            for i, (entry, recall) in enumerate(zip(self.run.entries, read_scores(self.run), strict=True))
        )

    @cached_property
    def step(self) -> int:
        """The step of its newest whole checkpoint, whose numbers follow."""
        from nemui_jax.runs import checkpoint

        return checkpoint.usable_step(self.run, self.tell, range(len(self.run.entries)))

    @property
    def fingerprint(self) -> str:
        """A short hash of that checkpoint, as in the provenance of pieces."""
        return self.run.fingerprint(self.step)

    @property
    def params(self) -> Params:
        """The weights of the decoder, for `nemui_jax.decode`."""
        return self._params(self.step)

    @cached_property
    def table(self) -> Float[Any, "row latent"]:
        """The latent rows of all songs, one song after another; `run.row_starts` says where each begins."""
        from nemui_jax.runs import checkpoint

        return checkpoint.restore_table(self.run, self.step)

    def song(self, song: SongName, **options: Unpack[Options]) -> Piece:
        """A learned song, played back."""
        return self._one(Plan((self._find(song),), (1.0,), {"song": str(song)}), options)

    def mix(self, weights: Mapping[Any, Number], **options: Unpack[Options]) -> Piece:
        """Songs by weight, as in `{0: 0.5, "joplin": 0.5}`. Weights are scaled to a sum of 1."""
        text = ",".join(f"{song}:{weight}" for song, weight in weights.items())
        found = recipe.scale_weights(weights.items(), text, self.run.entries)
        return self._one(Plan(tuple(found), tuple(found.values()), {"mix": text}), options)

    def morph(self, songs: Iterable[SongName], weights: Any = None, **options: Unpack[Options]) -> Piece:
        """A way from the first song to the last, or by `weights` of your own.

        These are `[song, point]` at points spread evenly over the piece, between which they move in straight lines;
        they are scaled to a sum of 1 at each point.
        """
        songs = list(songs)
        given: dict[str, Any] = {"morph": ",".join(str(song) for song in songs)}
        if len(songs) < 2:
            raise UsageError(f"a morph of {given['morph'] or 'nothing'}: name two songs at least")
        if weights is not None:
            weights = _scaled(weights, len(songs))
            given["weights"] = weights.tolist()
        return self._one(Plan(tuple(self._find(song) for song in songs), weights, given), options)

    def perturb(self, song: SongName, noise: Number = 0.1, **options: Unpack[Options]) -> Piece:
        """A variation of a song: its rows with noise, in units of the variance of all rows."""
        text = f"{song}:{noise}"
        return self._one(Plan((self._find(song),), (1.0,), {"perturb": text}, recipe.check_noise(noise, text)), options)

    def random(self, **options: Unpack[Options]) -> Piece:
        """A new song in the manner of the run's. Failed if all that were drawn are too like one of these."""
        return self.randoms(**options)[0]

    def randoms(self, count: int = 1, best: int | None = None, **options: Unpack[Options]) -> list[Piece]:
        """The `best` (by default all) of `count` new songs, the best first; fewer where most are copies.

        Failed if all that were drawn are too like a song of the run.
        """
        best = count if best is None else best
        if best > count:
            raise UsageError(f"--best {best} of --count {count}: the best are fewer than all")
        if len(self.run.entries) < 2:
            raise UsageError(f"{self.run.path}: new songs are drawn between learned ones, and it knows one; perturb it")
        given, seed = _given(**options), options.get("seed", 0)
        seconds, sounds = given.get("seconds"), self._sounds(given)
        from nemui_jax.evaluation import novelty
        from nemui_jax.sampling import prior
        from nemui_jax.sampling.arrange import mixed_clock
        from nemui_jax.sampling.play import play

        _check_sphere(sounds["path"], min(prior.SONGS_PER_DRAW, len(self.run.entries)))
        known = self._known(range(len(self.run.entries)), seed)
        tracks = _Tracks(known.track, len(self.run.entries))
        steady = steady_clock()  # songs are compared at one tempo: a copy at another is one too
        sources = [retime(track.source, track.clock, steady).notes for track in map(known.track, range(len(tracks)))]
        made, compared, copies, unit = [], [], 0, known.unit()
        for drawn in range(seed, seed + RANDOM_TRIES * count):
            used, weights = _draw(tracks, known.config, seconds or RANDOM_SECONDS, drawn)
            song = play(known.params, used, weights, known.config, **sounds, noise=prior.NOISE, unit=unit, seed=drawn)
            song = dataclasses.replace(cut_song(song, seconds) if seconds else song, name=f"random {drawn}")
            at_one_tempo = retime(song, mixed_clock(used, weights, known.config), steady).notes
            near = novelty.nearest_passage(at_one_tempo, sources)
            copies += near.too_close
            if not near.too_close:
                provenance = self._provenance({"random": True, **given}, drawn, known.step)
                name = self.run.entries[near.song].name
                remark = f"nearest song {near.song} {name}, likeness {near.likeness:.2f}"
                made.append(Piece(song, (), "new", provenance, remark))
                compared.append(at_one_tempo)
            if len(made) == count:
                break
        if copies:
            self.tell(f"{copies} drawn and left out, too like a song of the run")
        if not made:
            raise Failed(
                "no new song: all that were drawn are too like the run's, which are few or alike; try another --seed"
            )
        return [made[index] for index in novelty.rank(compared, sources)[:best]]

    def play(self, plans: Sequence[Plan], **options: Unpack[Options]) -> Iterator[Piece]:
        """What the plans ask for, one after another. `seed` is that of what is learned of files, once for all plans."""
        given, seed = _given(**options), options.get("seed", 0)
        seconds, sounds = given.get("seconds"), self._sounds(given)
        if any(isinstance(plan.weights, tuple) and not all(0 <= w <= 1 for w in plan.weights) for plan in plans):
            self.tell("weights below 0 or above 1 go beyond the songs: expect the unexpected")
        for plan in plans:
            _check_sphere(sounds["path"], len(plan.songs))
        from nemui_jax.sampling.arrange import count_blocks_in, mixed_clock
        from nemui_jax.sampling.play import play

        known = self._known([song for plan in plans for song in plan.songs], seed)
        settings = known.config
        for plan in plans:
            tracks = [known.track(song) for song in plan.songs]
            weigh = partial(_weigh, plan)
            lengths = [layout.count_blocks(track.steps, settings.model) for track in tracks]
            blocks = min(lengths) if isinstance(plan.weights, tuple) else lengths[-1]
            blocks = count_blocks_in(seconds, tracks, weigh, settings) if seconds else blocks
            weights, mixed = weigh(blocks), len(tracks) > 1 or plan.noise or sounds["temperature"]
            song = play(
                known.params,
                tracks,
                weights,
                settings,
                **sounds,
                noise=plan.noise,
                unit=known.unit() if plan.noise else 1.0,
                seed=plan.seed,
                voices=[known.voice(song, blocks) for song in plan.songs] if mixed else None,
            )
            provenance = self._provenance({**plan.recipe, **given}, plan.seed, known.step)
            clock = mixed_clock(tracks, weights, settings)
            sources = [retime(track.source, track.clock, clock) for track in tracks]
            yield _piece(cut_song(song, seconds) if seconds else song, plan, tracks, sources, provenance)

    def _one(self, plan: Plan, options: Options) -> Piece:
        return next(self.play([dataclasses.replace(plan, seed=options.get("seed", 0))], **options))

    def _find(self, song: SongName) -> int | Path:
        return recipe.find_song(song, self.run.entries)

    def _sounds(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What was given, as `sample.play` takes it."""
        key = given.get("key")
        return {
            "shift": None if key is None else recipe.find_shift(key, self.run.entries),
            "program": given.get("program"),
            "path": given.get("path", "line"),
            "temperature": given.get("temperature", 0.0),
        }

    @cached_property
    def _usable(self) -> Callable[[tuple[int, ...], tuple[int, ...]], int]:
        """The step to play songs from; looked at once for the same songs, as long as no checkpoint comes or goes."""
        from nemui_jax.runs import checkpoint

        return lru_cache(maxsize=TRACKS_KEPT)(lambda songs, _: checkpoint.usable_step(self.run, self.tell, songs))

    @cached_property
    def _params(self) -> Callable[[int], Params]:
        """Reads the weights at a step, and keeps them."""
        from nemui_jax.runs import checkpoint

        return lru_cache(maxsize=1)(partial(checkpoint.restore_params, self.run))

    @cached_property
    def _track(self) -> Callable[[int, int], LatentTrack]:
        """Reads the track of a song of the run at a step, and keeps some; the rows of no other song are read."""
        from nemui_jax.runs import checkpoint
        from nemui_jax.sampling.decode import latent_track

        def read(step: int, index: int) -> LatentTrack:
            rows = checkpoint.restore_rows(self.run, step, index)
            return latent_track(self.run.entries[index], self.run.song(index), rows)

        return lru_cache(maxsize=TRACKS_KEPT)(read)

    @cached_property
    def _voice(self) -> Callable[[int, int, int], DecodedSong]:
        """What a song of the run says by itself, at a step and over so many blocks, of which some are kept."""
        from nemui_jax.sampling.select import decode_song

        def decode(step: int, index: int, blocks: int) -> DecodedSong:
            return decode_song(self._params(step), self._track(step, index), blocks, self.config)

        return lru_cache(maxsize=VOICES_KEPT)(decode)

    def _known(self, songs: Sequence[int | Path], seed: int) -> _Known:
        """What plays these songs. A file's track is fitted; where that recalls too little the song is taught."""
        files = list(dict.fromkeys(song for song in songs if isinstance(song, Path)))
        from nemui_jax.evaluation import report
        from nemui_jax.runs import checkpoint
        from nemui_jax.sampling.decode import latent_track, latent_tracks
        from nemui_jax.sampling.select import decode_song
        from nemui_jax.training import finetune

        if not files:
            indices = [song for song in songs if isinstance(song, int)]
            step = self._usable(tuple(indices), tuple(checkpoint.saved_steps(self.run.path)))
            unit = partial(checkpoint.restore_spread, self.run, step)
            track, voice = partial(self._track, step), partial(self._voice, step)
            return _Known(step, self.config, self._params(step), track, voice, unit)
        step = checkpoint.usable_step(self.run, self.tell)
        known, found = (
            finetune.TrainedModel(*checkpoint.restore_model(self.run, step), self.run.corpus(), self.config),
            {},
        )
        for path in files:
            entry, song = dataset.load_file(path, self.config.roll, self.max_seconds)
            hashes, told = [other.sha256 for other in known.corpus.entries], escape(path)
            if entry.sha256 in hashes:
                found[path] = hashes.index(entry.sha256)
                continue
            self.tell(f"{told}: not in the run; fitting it")
            track = latent_track(entry, song, finetune.fit_song(known.params, song, entry, known.config, seed))
            recall = report.note_f1(known.params, track, known.config)
            if recall >= FIT_ENOUGH:
                self.tell(f"{told}: fitted to the decoder as it is; recall {recall:.3f}")
                found[path] = track
            else:
                self.tell(f"{told}: fitted, recall only {recall:.3f}; teaching it for this output")
                found[path] = len(hashes)
                known = finetune.add_song(known, entry, song, seed)
                self.tell(f"to keep it: python run.py add --file {told} --run {self.run.path}")
        tracks: dict[int | Path, LatentTrack] = dict(enumerate(latent_tracks(known.corpus, known.table, known.config)))
        for path, track in found.items():
            tracks[path] = tracks[track] if isinstance(track, int) else track
            recall = report.note_f1(known.params, tracks[path], known.config)
            self.tell(f"{escape(path)}: known with recall {recall:.3f}")
        unit = partial(latents.spread, known.table)
        params, settings = known.params, known.config
        return _Known(
            step,
            settings,
            params,
            track=tracks.__getitem__,
            voice=lambda song, blocks: decode_song(params, tracks[song], blocks, settings),
            unit=unit,
        )

    def _provenance(self, given: Mapping[str, Any], seed: int, step: int) -> str:
        """What made a piece, so that it can be made again."""
        used = {**given, "seed": seed, "run": self.run.fingerprint(step)}
        return "nemui_jax " + json.dumps(used, default=str)


class _Tracks(Sequence[LatentTrack]):
    """The tracks of a run, each read when it is first asked for."""

    def __init__(self, read: Callable[[int], LatentTrack], count: int):
        self._read, self._count = read, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._read(int(index))


def import_plots() -> Any:
    """The module `plots`; UsageError says which extra it needs."""
    try:
        from nemui_jax.outputs import plots
    except ImportError as error:
        raise UsageError(f"pictures need the extra plots: pip install 'nemui-jax[plots]' ({error})") from error
    return plots


def _given(
    *,
    seconds: Number | None = None,
    key: SupportsIndex | str | None = None,
    program: int | None = None,
    path: str = "line",
    temperature: Number = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Options that are not as they are by default, by name, but for the seed. UsageError where one is out of range."""
    if seconds is not None and not 0 < seconds < 1e12:
        raise UsageError(f"seconds={seconds} is out of range; a piece lasts longer than 0 seconds")
    if program is not None and not 0 <= program < 128:
        raise UsageError(f"program={program} is not a program from 0 to 127")
    if path not in latents.PATHS:
        raise UsageError(f"path={path!r}: there are {', '.join(latents.PATHS)}")
    if not 0 <= temperature < 1e12:
        raise UsageError(f"temperature={temperature} is out of range; it is 0 or more")
    given = {
        "seconds": None if seconds is None else float(seconds),
        "temperature": float(temperature) or None,
        "path": None if path == "line" else path,
        "key": key,
        "program": program,
    }
    return {name: value for name, value in given.items() if value is not None}


def _check_sphere(path: str, songs: int) -> None:
    """UsageError where a sphere has no one way to go."""
    if path == "sphere" and songs != 2:
        raise UsageError(f"a sphere's path is one between two songs, and there are {songs}; take line or norm")


def _scaled(weights: Any, songs: int) -> Float[np.ndarray, "song point"]:
    """Weights `[song, point]` with a sum of 1 at each point."""
    found = np.asarray(weights, float)
    if found.ndim != 2 or len(found) != songs or not found.shape[1]:
        raise UsageError(f"weights of shape {found.shape} for {songs} songs; give [song, point], a row for each song")
    if not np.isfinite(found).all() or (found < 0).any() or (found.sum(0) <= 0).any():
        raise UsageError("weights must be finite, not negative, and above 0 for some song at each point")
    return found / found.sum(0)


def _weigh(plan: Plan, blocks: int) -> Float[np.ndarray, "song block"]:
    """A plan's weights in each of so many blocks."""
    from nemui_jax.sampling.blend import mix_weights, morph_weights

    if plan.weights is None:
        return morph_weights(len(plan.songs), blocks)
    if isinstance(plan.weights, tuple):
        return mix_weights(plan.weights, blocks)
    place = np.linspace(0, plan.weights.shape[1] - 1, blocks)
    return np.stack([np.interp(place, np.arange(len(row)), row) for row in plan.weights])


def _draw(
    tracks: Sequence[LatentTrack], settings: config.Config, seconds: float, seed: int
) -> tuple[list[LatentTrack], Float[np.ndarray, "song block"]]:
    """What a new song of this length is made of, and with which weights (`prior.draw`)."""
    from nemui_jax.sampling import prior
    from nemui_jax.sampling.arrange import count_blocks_in

    draw = partial(prior.draw_song, tracks, settings, seed=seed)
    first = max(math.ceil(seconds / STEADY_BEAT_SECONDS * STEPS_PER_BEAT / settings.model.block_steps), 1)
    blocks = count_blocks_in(seconds, draw(first)[0], lambda count: draw(count)[1], settings)
    return draw(blocks)


def _piece(song: Song, plan: Plan, tracks: Sequence[LatentTrack], sources: Sequence[Song], provenance: str) -> Piece:
    """What was played of a plan, with the songs that it is made of, at the tempo that they have in it, and weights."""
    fixed = plan.weights if isinstance(plan.weights, tuple) else ()
    told = [f" {weight:.2f}" if len(fixed) > 1 else "" for weight in fixed or [0.0] * len(tracks)]
    parents = tuple(
        dataclasses.replace(cut_song(source, song.seconds), name=f"{track.name}{weight}")
        for track, source, weight in zip(tracks, sources, told, strict=True)
    )
    kind = "morph" if not fixed else "mix" if len(tracks) > 1 or plan.noise else "recall"
    stops = tuple(np.linspace(0, song.seconds, len(parents)).tolist()) if plan.weights is None else ()
    return Piece(song, parents, kind, provenance, stops=stops)
