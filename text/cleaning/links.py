"""Web and e-mail addresses, in words."""

import re

from text.aligned import AlignedText, Pieces
from text.writing_systems import HAN, HANGUL, KANA

_EMAIL = re.compile(
    r"(?:<|\bmailto:)?(?<![\w.@])([\w.+-]{1,64})@((?:[\w-]{1,63}\.){1,8}[a-z]{2,24})(?![A-Za-z0-9_@-])>?",
    re.I,
)
_WIDE = f"\u3000-\u303f{KANA}{HAN}{HANGUL}\uff00-\uffef"
_HOST = rf"(?:(?![{_WIDE}])[\w-])"
_PATH = rf"[^\s<>\"'{_WIDE}\u2013\u2014\u2026\u00ab\u00bb\u2018-\u201f]"
_URL = re.compile(
    rf"<?(?<![a-z0-9_])(?:(?:https?|ftp)://|www\.)(?:[^\s/@<>]{{1,100}}@)?"
    rf"((?:{_HOST}{{1,63}}\.){{0,8}}{_HOST}{{1,63}})"
    rf"(?::\d{{1,5}})?([/?#]{_PATH}{{0,2000}})?>?",
    re.I,
)
_TOP = (
    r"com|org|net|edu|gov|mil|int|info|biz|io|ai|dev|app|co|eu|uk|us|ca|au|nz|jp|cn|kr|tw|hk|br|mx|ru|ua|"
    r"de|ch|fr|es|pt|nl|pl|cz|se|dk|fi|gr|tr|ie|il|za|tv|xyz|online|site|shop|store|blog|wiki|news|cloud|tech"
)
_BARE = re.compile(
    rf"(?<![\w.@/\\-])((?:{_HOST}{{1,63}}\.){{1,6}}(?:{_TOP}))(?::\d{{2,5}})?(/{_PATH}{{0,2000}})?"
    r"(?![\w@-]|\.\w)",
)
_LONG_HEX = re.compile(r"\b(?=[0-9a-f]{0,63}\d)(?=[0-9a-f]{0,63}[a-f])[0-9a-f]{32,128}\b", re.I)


def _dotted(text: str, start: int, end: int) -> list[str | slice]:
    pieces: list[str | slice] = []
    for part in text[start:end].split("."):
        pieces += [" dot "] if pieces else []
        pieces.append(slice(start, start + len(part)))
        start += len(part) + 1
    return pieces


def speak_links(text: AlignedText) -> AlignedText:
    """`https://www.example.com/a?b` becomes `example dot com`. Long hex numbers are removed."""

    def domain(match: re.Match[str]) -> Pieces:
        start = match.start(1) + 4 * match[1].lower().startswith("www.")
        path = match[2] or ""
        end = match.end(2)
        # Punctuation at the end belongs to the sentence.
        mark = slice(end - len(path) + len(path.rstrip(".,;:!?)]*")), end)
        return [*_dotted(match.string, start, match.end(1)), *([mark] if path else [])]

    def address(match: re.Match[str]) -> Pieces:
        name, host = (_dotted(match.string, *match.span(part)) for part in (1, 2))
        return [*name, " at ", *host]

    text = text.sub(_URL, domain, "/wW")
    text = text.sub(_EMAIL, address, "@")
    text = text.sub(_BARE, domain, ".")
    return text.sub(_LONG_HEX, ())
