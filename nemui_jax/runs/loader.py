"""What plays songs: weights and rows read from a run's checkpoint and kept, or learned from files for one output."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from nemui_jax import shell
from nemui_jax.config import Config
from nemui_jax.data import dataset
from nemui_jax.files import escape
from nemui_jax.runs.components import choose_components
from nemui_jax.runs.run import Run

if TYPE_CHECKING:
    from nemui_jax.data.grid import GridSong
    from nemui_jax.model.decoder import DecoderClass, Params
    from nemui_jax.sampling.decode import LatentSong
    from nemui_jax.sampling.mix import AnalyzedSong
else:  # what they come from takes seconds to import
    AnalyzedSong = DecoderClass = GridSong = LatentSong = Params = Any
ROWS_KEPT, SONGS_KEPT = 64, 256  # of songs that were played last, between pieces
FIT_ENOUGH = 0.9  # note F1 from which a song whose rows were fitted is good enough to play with


class LoadedModel(NamedTuple):
    """What plays songs: the run's model, or one that has learned more for one output."""

    step: int  # of the run's checkpoint
    config: Config
    decoder: DecoderClass
    params: Params
    latent: Callable[[Any], LatentSong]  # of a song, an index or a path
    spread: Callable[[], Float[Any, " latent"]]  # of the rows: the unit of noise
    played: Callable[[Any], GridSong]  # a song as it was learned
    analyzed: Callable[[Any], AnalyzedSong]  # the same, with what mixing needs to know of it


@dataclass(frozen=True)
class ModelLoader:
    """Reads the model of a run, only as much of it as is played, and keeps some of that between pieces."""

    run: Run
    given_decoder: DecoderClass | None  # None: the default one
    report: Callable[[str], None]  # called with a line about what is done on the way
    max_seconds: float  # that a song in a file may last

    def load(self, songs: Sequence[int | Path], seed: int) -> LoadedModel:
        """What plays these songs, of which those in files are learned first."""
        from nemui_jax.runs import checkpoint

        files = list(dict.fromkeys(song for song in songs if isinstance(song, Path)))
        if files:
            return self._load_with(files, seed)
        indices = tuple(song for song in songs if isinstance(song, int))
        step = self._usable(indices, tuple(checkpoint.saved_steps(self.run.path)))
        return LoadedModel(
            step,
            self.run.config,
            self.decoder,
            self.params(step),
            latent=partial(self._latent, step),
            spread=partial(checkpoint.restore_spread, self.run, step),
            played=partial(self._played, step),
            analyzed=partial(self._analyzed, step),
        )

    @cached_property
    def decoder(self) -> DecoderClass:
        """The decoder that the weights are for."""
        return choose_components(self.given_decoder, None).decoder

    @cached_property
    def params(self) -> Callable[[int], Params]:
        """Reads the weights at a step, and keeps them."""
        from nemui_jax.runs import checkpoint

        return lru_cache(maxsize=1)(partial(checkpoint.restore_params, self.run, decoder=self.decoder))

    @cached_property
    def _usable(self) -> Callable[[tuple[int, ...], tuple[int, ...]], int]:
        """The step to play songs from; looked at once for the same songs, as long as no checkpoint comes or goes."""
        from nemui_jax.runs import checkpoint

        return lru_cache(maxsize=ROWS_KEPT)(lambda songs, _: checkpoint.usable_step(self.run, self.report, songs))

    @cached_property
    def _latent(self) -> Callable[[int, int], LatentSong]:
        """Reads the rows of a song of the run at a step, and keeps some; the rows of no other song are read."""
        from nemui_jax.runs import checkpoint
        from nemui_jax.sampling.decode import latent_song

        def read(step: int, index: int) -> LatentSong:
            rows = checkpoint.restore_rows(self.run, step, index)
            return latent_song(self.run.entries[index], self.run.song(index), rows, self.run.config)

        return lru_cache(maxsize=ROWS_KEPT)(read)

    @cached_property
    def _played(self) -> Callable[[int, int], GridSong]:
        """Plays a song of the run at a step, and keeps some."""
        from nemui_jax.sampling.decode import decode_song

        def play(step: int, index: int) -> GridSong:
            return decode_song(self.params(step), self._latent(step, index), self.run.config, self.decoder)

        return lru_cache(maxsize=SONGS_KEPT)(play)

    @cached_property
    def _analyzed(self) -> Callable[[int, int], AnalyzedSong]:
        """Analyzes a song of the run as it is played at a step, and keeps some."""

        def read(step: int, index: int) -> AnalyzedSong:
            from nemui_jax.sampling.mix import analyze

            return analyze(self._played(step, index))

        return lru_cache(maxsize=SONGS_KEPT)(read)

    def _load_with(self, files: Sequence[Path], seed: int) -> LoadedModel:
        """The model with rows for songs in files: they are fitted; where that is too little the song is added."""
        from nemui_jax.runs import checkpoint
        from nemui_jax.sampling.decode import decode_song
        from nemui_jax.sampling.mix import analyze
        from nemui_jax.training import finetune

        step, decoder = checkpoint.usable_step(self.run, self.report, range(len(self.run.entries))), self.decoder
        rows = checkpoint.restore_some_rows(self.run, step, finetune.OLD_ROWS)
        model = finetune.TrainedModel(self.params(step), rows, self.run.config)
        learned: dict[Path, int | LatentSong] = {}
        for path in files:
            model, learned[path] = self._learn(model, path, seed)
        params, settings = model.params, model.config

        def latent(song: int | Path) -> LatentSong:
            found = learned[song] if isinstance(song, Path) else song
            return self._latent(step, found) if isinstance(found, int) else found

        played = lru_cache(maxsize=SONGS_KEPT)(lambda song: decode_song(params, latent(song), settings, decoder))
        analyzed = lru_cache(maxsize=SONGS_KEPT)(lambda song: analyze(played(song)))
        spread = partial(checkpoint.restore_spread, self.run, step)
        return LoadedModel(step, settings, decoder, params, latent, spread, played, analyzed)

    def _learn(self, model: Any, path: Path, seed: int) -> tuple[Any, int | LatentSong]:
        """A `finetune.TrainedModel` that plays the song in a file, and its index in the run or the song itself."""
        from nemui_jax.evaluation.playback import note_f1
        from nemui_jax.sampling.decode import latent_song
        from nemui_jax.training import finetune

        entry, song = dataset.load_file(path, self.run.config, self.max_seconds)
        hashes, name = [other.sha256 for other in self.run.entries], escape(path)
        if entry.sha256 in hashes:
            return model, hashes.index(entry.sha256)
        self.report(f"{name}: not in the run; fitting it")
        rows = finetune.fit_song(model.params, song, entry, model.config, seed, decoder=self.decoder)
        learned = latent_song(entry, song, rows, model.config)
        f1 = note_f1(model.params, learned, song, model.config, self.decoder)
        if f1 >= FIT_ENOUGH:
            self.report(f"{name}: fitted, with the decoder as it is; note F1 {f1:.3f}")
            if missing := dataset.missing_curves(model.config, song):
                curves = ", ".join(missing).replace("_", " ")
                keep = shell.command("add", "--file", path, "--run", self.run.path)
                self.report(f"{name}: played without {curves}, which the run has not learned; to learn it: {keep}")
            return model._replace(rows=np.concatenate([model.rows, rows])), learned
        self.report(f"{name}: fitted, note F1 only {f1:.3f}; fine-tuning the decoder for this output")
        model, rows = finetune.add_song(model, entry, song, seed, decoder=self.decoder, rows=rows)
        learned = latent_song(entry, song, rows, model.config)
        f1 = note_f1(model.params, learned, song, model.config, self.decoder)
        self.report(f"{name}: learned for this output, note F1 {f1:.3f}")
        self.report(f"to keep it: {shell.command('add', '--file', path, '--run', self.run.path)}")
        return model, learned
