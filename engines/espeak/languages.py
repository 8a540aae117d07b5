"""espeak-ng's languages: by a BCP 47 tag, and by the script that a text is written in.

A script has a language that it is read in where nothing is known, and others that share it.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

ENGLISH = "gmw/en-US"

# The first word of a letter's or digit's Unicode name, and espeak's language for that script.
_SCRIPTS = {
    "LATIN": ENGLISH,
    "CJK": "sit/cmn",
    "BOPOMOFO": "sit/cmn",
    "HIRAGANA": "jpx/ja",
    "KATAKANA": "jpx/ja",
    "KATAKANA-HIRAGANA": "jpx/ja",
    "HANGUL": "ko",
    "CYRILLIC": "zle/ru",
    "GREEK": "grk/el",
    "ARMENIAN": "ine/hy",
    "GEORGIAN": "ccs/ka",
    "HEBREW": "sem/he",
    "ARABIC": "sem/ar",
    "ARABIC-INDIC": "sem/ar",
    "EXTENDED": "sem/ar",  # Arabic-Indic digits as Persian writes them
    "ETHIOPIC": "sem/am",
    "DEVANAGARI": "inc/hi",
    "BENGALI": "inc/bn",
    "GUJARATI": "inc/gu",
    "GURMUKHI": "inc/pa",
    "ORIYA": "inc/or",
    "SINHALA": "inc/si",
    "TAMIL": "dra/ta",
    "TELUGU": "dra/te",
    "KANNADA": "dra/kn",
    "MALAYALAM": "dra/ml",
    "THAI": "tai/th",
    "MYANMAR": "sit/my",
}
_SHARING = {
    ENGLISH: "gmw/en gmw/de gmw/nl gmw/af gmw/lb roa/fr roa/fr-BE roa/fr-CH roa/es roa/es-419"
    " roa/it roa/pt roa/pt-BR roa/ca roa/ro roa/ht gmq/da gmq/nb gmq/sv gmq/is gmq/fo zlw/cs zlw/pl"
    " zlw/sk zls/hr zls/bs zls/sl zls/sr urj/fi urj/et urj/hu bat/lt bat/lv cel/cy cel/ga cel/gd"
    " itc/la trk/tr trk/az trk/uz trk/tk poz/id poz/ms aav/vi bnt/sw sem/mt ine/sq eu art/eo",
    "sit/cmn": "sit/yue jpx/ja",
    "zle/ru": "zle/uk zle/be zls/bg zls/mk zls/sr trk/kk trk/ky trk/tt",
    "sem/ar": "ira/fa inc/ur trk/ug inc/sd",
    "inc/hi": "inc/mr inc/ne inc/kok",
    "inc/bn": "inc/as",
    "sem/am": "sem/ti",
}
_TAGS = {"sit/cmn": "zh", ENGLISH: "en", "gmw/en": "en-GB"}


def _tag(path: str) -> str:
    return _TAGS.get(path) or path.rpartition("/")[2]


_PATHS = " ".join([*_SCRIPTS.values(), *_SHARING.values()]).split()
LANGUAGES = {_tag(path): path for path in dict.fromkeys(_PATHS)}
"""espeak's file of each language, by its BCP 47 tag; English first."""
_FOLDED = {tag.lower(): path for tag, path in LANGUAGES.items()}


def find(tag: str) -> str | None:
    """The language that a BCP 47 tag means, by RFC 4647's lookup: `de-AT` is `de`."""
    parts = tag.lower().replace("_", "-").split("-")
    tags = ("-".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((_FOLDED[each] for each in tags if each in _FOLDED), None)


def asked_for(language: str | None, voice: str) -> tuple[str, ...]:
    """The tags that a text's language is looked for by: the request's, and the one that a voice is
    named by, as in `de-Lena_woman`."""
    named = _NAMED.match(voice)
    return tuple(filter(None, (language, named and named[1])))


_NAMED = re.compile("([a-z]{2}(?:-[A-Z]{2})?)-[A-Z]")


def language_of(text: str, wanted: Iterable[str] = ()) -> str:
    """The language that a text is read in: the first of the tags `wanted` that is written in the
    script of most of its letters, else that script's own."""
    scripts = (unicodedata.name(c, "").split(" ")[0] for c in text if c.isalnum())
    languages = Counter(_SCRIPTS[script] for script in scripts if script in _SCRIPTS)
    own = max(languages, key=languages.__getitem__, default=ENGLISH)
    sharing = [own, *_SHARING.get(own, "").split()]
    return next((path for path in map(find, wanted) if path and path in sharing), own)
