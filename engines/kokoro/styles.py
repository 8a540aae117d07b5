"""Kokoro's voices by name: a style each, some of them blended.

A style is an array of shape (510, 1, 256), with a row for each length of a text in phonemes. Styles
add up: a weighted sum of two voices is a voice between them, or beyond one of them.
"""

from collections.abc import Collection, Mapping

from audio.pcm import Samples

Blend = dict[str, float]

# Out of a file with all of Kokoro's voices, and out of the Python package's five. The latter's
# median pitch in Hz: Alice 240, Maya 240, Mary 320, Xinran 271; Frank 91, Carter 137, Samuel 79.
# A recogniser hears 5 % of Alice's words wrongly, and 12 % of Xinran's.
_BLENDS: dict[str, tuple[Blend, ...]] = {
    "Alice": ({"af_heart": 1}, {"jf_gongitsune": 1}),
    "Frank": ({"am_michael": 1}, {"jm_kumo": 1}),
    "Carter": ({"am_fenrir": 1}, {"jm_kumo": 0.6, "jf_gongitsune": 0.4}),
    "Maya": ({"af_bella": 1}, {"jf_nezumi": 1}),
    "Mary": ({"bf_emma": 1}, {"jf_tebukuro": 1}),
    "Samuel": ({"bm_george": 1}, {"jm_kumo": 1.4, "jf_alpha": -0.4}),
    "Xinran": ({"af_nicole": 1}, {"jf_alpha": 1}),
    "Bowen": ({"am_puck": 1}, {"jm_kumo": 0.8, "jf_tebukuro": 0.2}),
    "Anchen": ({"am_adam": 1}, {"jm_kumo": 1.3, "jf_nezumi": -0.3}),
}


def offered(own: Collection[str]) -> tuple[str, ...]:
    """All names that voices answer to, where a file has the voices `own`."""
    return (*_BLENDS, *own)


def blended(name: str, styles: Mapping[str, Samples]) -> Samples:
    """The style of a voice `offered`; where a file has not what its blend needs, one of the file's
    own in its place, so that different names stay different voices."""
    if name in styles:
        return styles[name]
    for blend in _BLENDS[name]:
        if blend.keys() <= styles.keys():
            mixed: Samples = sum(weight * styles[part] for part, weight in blend.items())  # type: ignore[assignment]
            return mixed
    return styles[sorted(styles)[list(_BLENDS).index(name) % len(styles)]]
