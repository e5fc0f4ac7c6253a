"""Instruments: their names, as General MIDI Level 1 lists them, and the families of their sound."""

PROGRAMS = tuple(
    """
Acoustic Grand Piano, Bright Acoustic Piano, Electric Grand Piano, Honky-tonk Piano, Electric Piano 1,
Electric Piano 2, Harpsichord, Clavinet, Celesta, Glockenspiel, Music Box, Vibraphone, Marimba, Xylophone,
Tubular Bells, Dulcimer, Drawbar Organ, Percussive Organ, Rock Organ, Church Organ, Reed Organ, Accordion, Harmonica,
Tango Accordion, Nylon Guitar, Steel Guitar, Jazz Guitar, Clean Guitar, Muted Guitar, Overdriven Guitar,
Distortion Guitar, Guitar Harmonics, Acoustic Bass, Fingered Bass, Picked Bass, Fretless Bass, Slap Bass 1,
Slap Bass 2, Synth Bass 1, Synth Bass 2, Violin, Viola, Cello, Contrabass, Tremolo Strings, Pizzicato Strings,
Orchestral Harp, Timpani, String Ensemble 1, String Ensemble 2, Synth Strings 1, Synth Strings 2, Choir Aahs,
Voice Oohs, Synth Voice, Orchestra Hit, Trumpet, Trombone, Tuba, Muted Trumpet, French Horn, Brass Section,
Synth Brass 1, Synth Brass 2, Soprano Sax, Alto Sax, Tenor Sax, Baritone Sax, Oboe, English Horn, Bassoon, Clarinet,
Piccolo, Flute, Recorder, Pan Flute, Blown Bottle, Shakuhachi, Whistle, Ocarina, Square Lead, Sawtooth Lead,
Calliope Lead, Chiff Lead, Charang Lead, Voice Lead, Fifths Lead, Bass and Lead, New Age Pad, Warm Pad, Polysynth Pad,
Choir Pad, Bowed Pad, Metallic Pad, Halo Pad, Sweep Pad, Rain, Soundtrack, Crystal, Atmosphere, Brightness, Goblins,
Echoes, Sci-fi, Sitar, Banjo, Shamisen, Koto, Kalimba, Bagpipe, Fiddle, Shanai, Tinkle Bell, Agogo, Steel Drums,
Woodblock, Taiko Drum, Melodic Tom, Synth Drum, Reverse Cymbal, Guitar Fret Noise, Breath Noise, Seashore,
Bird Tweet, Telephone Ring, Helicopter, Applause, Gunshot
""".replace("\n", " ")
    .strip()
    .split(", ")
)
DRUMS = dict(
    enumerate(
        """
High Q, Slap, Scratch Push, Scratch Pull, Sticks, Square Click, Metronome Click, Metronome Bell, Kick 2, Kick,
Side Stick, Snare, Clap, Electric Snare, Floor Tom 2, Closed Hat, Floor Tom, Pedal Hat, Low Tom, Open Hat, Mid Tom 2,
Mid Tom, Crash, High Tom, Ride, China, Ride Bell, Tambourine, Splash, Cowbell, Crash 2, Vibraslap, Ride 2, High Bongo,
Low Bongo, Mute Conga, High Conga, Low Conga, High Timbale, Low Timbale, High Agogo, Low Agogo, Cabasa, Maracas,
Short Whistle, Long Whistle, Short Guiro, Long Guiro, Claves, High Woodblock, Low Woodblock, Mute Cuica, Open Cuica,
Mute Triangle, Open Triangle, Shaker, Jingle Bell, Bell Tree, Castanets, Mute Surdo, Open Surdo
""".replace("\n", " ")
        .strip()
        .split(", "),
        start=27,
    )
)  # by pitch: General MIDI's from 35 to 81, and those that GS adds
_FAMILIES = (  # the first program of each stretch, and the family of its sound
    *((0, "piano"), (6, "plucked"), (16, "bowed"), (20, "lead"), (24, "plucked"), (29, "lead"), (31, "plucked")),
    *((32, "bass"), (40, "bowed"), (45, "plucked"), (48, "bowed"), (56, "lead"), (88, "bowed"), (104, "plucked")),
    *((109, "lead"), (110, "bowed"), (111, "lead"), (112, "plucked")),
)


def family(program: int, is_drums: bool = False) -> str:
    """The family of an instrument's sound: "piano", "plucked", "bass", "bowed", "lead" or "drums".

    Plucked and struck sounds die away, bowed ones and those of leads (winds, distorted guitars) last. Organs and pads
    are with the bowed ones.
    """
    return "drums" if is_drums else next(name for first, name in reversed(_FAMILIES) if first <= program)


def instrument(program: int, is_drums: bool = False) -> str:
    """The name of a part's instrument."""
    return "Drums" if is_drums else PROGRAMS[program]
