"""Abbreviations of several languages, and whether a sentence goes on behind one.

What sentencex (1.0.32, English) knows is not repeated. Case counts: `Ex. 4` is an example, and
`her ex.` may end a sentence.
"""

import re

# Titles, and words that need what follows them: never an end.
_TITLES = (
    "M MM Mme Mlle Mgr St Ste Sr Sra Srta Sres Dña Dra Drs Dres Profa Sig sig Sigra dott Dott "
    "Avv avv Ing ing Hr Hrn Fr Frl Dhr dhr Mevr mevr mw drs ir Exmo Exma mgr inż ks św г ул пр им "
    "тов проф акад ген ul vgl Vgl cf Cf viz bspw bzw EE Apt"
)
# Before a number they name or measure it; before a small letter the sentence goes on.
_NUMBERED = (
    "approx aprox max min incl inkl excl exkl est avg Ex Exs Tab Tabs Abb Abs Kap Art Aufl Eq Eqs "
    "Op op Fig Figs fig figs Ext ext eds Suppl Vol Vols vol vols No Nos no nos Nr nr Sec Secs sec "
    "Ch Chap Chaps ch Tel tel Ref Refs Def Prop Inst pag pagg num núm Núm pág págs Pág art eq Ave "
    "Mio Mrd evtl ggf zzgl geb gest gegr ca circa cca env av apr ibid bijv tzv např příp kap "
    "стр рис табл илл тел руб коп млн млрд тыс обл д см напр ок Ziff Anm Lit zł misc para qty temp "
    "Rte Lem Cor ver vers UU appr exs dept Dept esp resp vs al feat orig"
)
# The same where a sentence begins with it: `Max. 5 people`, but `I met Max.`
_NUMBERED_AT_START = "Approx Aprox Max Min Incl Inkl Excl Est Avg Evtl Ggf Zzgl Ca Circa Temp Qty"
_MONTHS = (
    "Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Okt Nov Dec Dez janv févr avr juil sept oct nov déc "
    "ene feb abr ago sep dic genn febbr giu lug ott sett янв февр апр авг сент окт нояб дек"
)
# Before a day's number alone.
_DAYS = (
    "Mon Tue Tues Wed Weds Thu Thur Thurs Fri Sat Sun Mo Di Mi lun mar mer jeu ven sam dim mié jue "
    "vie sáb dom gio"
)
# Before a Roman number or a letter too: `Vol. II`, `Fig. A`.
_PARTS = (
    "Vol Vols Fig Figs Sec Ch Chap Art Pt App Bd Kap Tab Abb Eq Op Rm Bldg Ex fig vol sec ch art"
)


def _ending(words: str, more: str = "") -> re.Pattern[str]:
    """Finds one of the words with its full stop at a text's end."""
    listed = "|".join(map(re.escape, dict.fromkeys(words.split())))
    return re.compile(rf"(?:^|(?<=[^\w.]))(?:{listed}{more})\.\s*\Z")


# Without a vowel, as Rm, Bldg, blz; not a unit behind a number (5 kg.), nor in capitals (TV.).
_VOWELLESS = (
    r"|(?<!\d )(?!(?:[A-Z]+|[Hh]m+|[Ss]h+|[Pp]s+t)\.)"
    r"[b-df-hj-np-tv-xzB-DF-HJ-NP-TV-XZ]{2,5}"
)
_TITLE = _ending(_TITLES, r"|z\. ?B|d\. ?h|u\. ?a|e\.g|i\.e|p\. ?ex")
_BEFORE_NUMBER = _ending(f"{_NUMBERED} {_MONTHS}", _VOWELLESS)
_BEFORE_NUMBER_AT_START = re.compile(rf"(?:{'|'.join(_NUMBERED_AT_START.split())})\.\s*")
_BEFORE_DAY = _ending(_DAYS)
_BEFORE_PART = _ending(_PARTS)
_BEFORE_SMALL = _ending(f"{_TITLES} {_NUMBERED} {_MONTHS} {_NUMBERED_AT_START}")
_SCALE = re.compile(r"\d\s?(?:Mio|Mrd|mln|mld|tys|млн|млрд|тыс)\.\s*\Z")
# `т. е.`, `z. B.`, `p. ej.`: a letter, of which more may follow.
_LETTERS = re.compile(
    r"(?:^|(?<=[\s(\"]))[^\W\d_]\.(?:[\s-]{0,2}(?:[^\W\d_]|ex|ej|in)\.){0,3}\s*\Z"
)
_LETTER = re.compile(r"[^\W\d_]\.")
_ORDINAL = re.compile(r"\b\d{1,2}\.\s*\Z")
_MONTH = re.compile("Januar|Februar|März|Mai|Juni|Juli|Oktober|Dezember")
_YEAR = re.compile(r"\d г\.\s*\Z")
_NUMBER = re.compile(r"[(#~<>\u2264\u2265\u00b1+-]?\d")
_DAY = re.compile(r"[1-3]?\d\b(?!:)")
_PART = re.compile(r"(?:[IVXLC]{1,6}|[A-Z]\d{0,4})\b(?!['.])")


def leads_on(before: str, after: str) -> bool:
    """Whether the full stop between two texts is no sentence's end, but an abbreviation's."""
    if _NUMBER.match(after):
        return _leads_to_number(before, after)
    if after[:1].islower():
        return bool(_BEFORE_SMALL.search(before) or _LETTERS.search(before))
    if not after[:1].isupper():
        return False
    if _ORDINAL.search(before):
        return bool(_MONTH.match(after))
    if _LETTER.match(after) and (_LETTERS.search(before) or _BEFORE_SMALL.search(before)):
        return True
    is_title = bool(_TITLE.search(before)) and not _YEAR.search(before)
    is_part = bool(_BEFORE_PART.search(before) and _PART.match(after))
    return is_title or is_part or bool(_SCALE.search(before))


def _leads_to_number(before: str, after: str) -> bool:
    if _DAY.match(after) and _BEFORE_DAY.search(before):
        return True
    found = (each.search(before) for each in (_TITLE, _BEFORE_NUMBER, _LETTERS))
    return any(found) or bool(_BEFORE_NUMBER_AT_START.fullmatch(before))
