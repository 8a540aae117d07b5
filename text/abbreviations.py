"""Abbreviations of several languages, and whether a sentence continues after one.

The tables hold only what sentencex (1.0.32, English) does not know. Case counts: `Ex. 4` is an
example, but `her ex.` may end a sentence.
"""

import re


def _words(written: str) -> frozenset[str]:
    return frozenset(written.split())


# Titles, and words that need what follows: they never end a sentence.
_TITLES = _words(
    "M MM Mme Mlle Mgr St Ste Sr Sra Srta Sres Dña Dra Drs Dres Profa Sig sig Sigra dott Dott Avv "
    "avv Ing ing Hr Hrn Fr Frl Dhr dhr Mevr mevr mw drs ir Exmo Exma mgr inż ks św г ул пр им тов "
    "проф акад ген ul vgl Vgl cf Cf viz bspw bzw EE Apt Ms Mx Messrs Amb Atty Brig Ft Ud Uds Vd "
    "Lic Arq Fam Hl sra srta"
)
# Before a number they never end a sentence, nor before a lower-case letter.
_NUMBERED = _words(
    "approx aprox max min incl inkl excl exkl est avg Ex Exs Tab Tabs Abb Abs Kap Art Aufl Eq Eqs "
    "Op op Fig Figs fig figs Ext ext eds Suppl Vol Vols vol vols No Nos no nos Nr nr Sec Secs sec "
    "Ch Chap Chaps ch Tel tel Ref Refs Def Prop Inst pag pagg num núm Núm pág págs Pág art eq Ave "
    "Mio Mrd evtl ggf zzgl geb gest gegr ca circa cca env av apr ibid bijv tzv např příp kap стр "
    "рис табл илл тел руб коп млн млрд тыс обл д см напр ок Ziff Anm Lit zł misc para qty temp "
    "Rte Lem Cor ver vers UU appr exs dept Dept esp resp vs al feat orig Para Paras Alg App Apps "
    "Ser Fax chap éd máx mín Máx Mín Av Ap Apdo tlf tfno cap Cap Pat fasc Anl Anh Ausg wyd rozdz "
    "rys godz poz hoofdst afb Afb bil Stat Supp trans ep Ep ste Div Sess Const amend Proc Bull "
    "Rept rept Lat lat elev Elev Int Obs obs encl Encl Att att Sched sched subs Lect lect Ques "
    "Prob prob Cert Acct acct Inv inv Ter Terr Sek sek Deut Exod Isa Ezek Matt Eph Thess Heb Prov "
    "Eccl febr szept márc"
)
# The same, but only as a sentence's first word: `Max. 5 people`, but `I met Max.`
_NUMBERED_AT_START = _words(
    "Approx Aprox Max Min Incl Inkl Excl Est Avg Evtl Ggf Zzgl Ca Circa Temp Qty"
)
_MONTHS = _words(
    "Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Okt Nov Dec Dez janv févr avr juil sept oct nov déc "
    "ene feb abr ago sep dic genn febbr giu lug ott sett янв февр апр авг сент окт нояб дек"
)
# Abbreviations only before the number of a day of the month.
_DAYS = _words(
    "Mon Tue Tues Wed Weds Thu Thur Thurs Fri Sat Sun Mo Di Mi lun mar mer jeu ven sam dim mié jue "
    "vie sáb dom gio"
)
# Abbreviations before a Roman number or a letter too: `Vol. II`, `Fig. A`.
_PARTS = _words(
    "Vol Vols Fig Figs Sec Ch Chap Art Pt App Bd Kap Tab Abb Eq Op Rm Bldg Ex fig vol sec ch art"
)
_SCALES = _words("Mio Mrd Tsd mln mld tys млн млрд тыс")
_BEFORE_NUMBER = _TITLES | _NUMBERED | _MONTHS
_BEFORE_SMALL = _BEFORE_NUMBER | _NUMBERED_AT_START
# Words without a vowel: Rm, Bldg, blz. Not those in capitals (TV), nor sounds (hmm).
_VOWELLESS = re.compile(r"(?![A-Z]+\Z|[Hh]m|[Ss]h|[Pp]st)[b-df-hj-np-tv-xzB-DF-HJ-NP-TV-XZ]{2,5}")
# Single letters with full stops between: `т.` of `т. е.`, `e.g.`, `J.-C.`
_LETTERS = re.compile(r"[^\W\d_](?:\.-?(?:[^\W\d_]|ex)){0,4}")
_TWO_PARTS = re.compile(r"\b(?:z\. ?B|d\. ?h|u\. ?a|o\. ?ä|e\.g|i\.e|p\. ?ex|p\. ?ej)\.\Z")
_LAST_WORD = re.compile(r"(?P<amount>\d ?)?(?P<word>[^\s\"'\u201c\u2018(\[\d]{1,12})\.\Z")
_LETTER = re.compile(r"[^\W\d_]\.")
_ORDINAL = re.compile(r"\b\d{1,2}\.\Z")
_MONTH = re.compile("Januar|Februar|März|Mai|Juni|Juli|Oktober|Dezember")
# `der 2. Weltkrieg`, `im 19. Jahrhundert`
_GERMAN_ORDINAL = re.compile(r"\b(?:d(?:er|ie|as|es|em|en)|im|zu[mr]|vom|beim) \d{1,2}\.\Z", re.I)
_NUMBER = re.compile(r"[(#~<>\u2264\u2265\u00b1+-]?\d")
_DAY = re.compile(r"[1-3]?\d\b(?!:)")
_PART = re.compile(r"(?:[IVXLC]{1,6}|[A-Z]\d{0,4})\b(?!['.])")


def leads_on(before: str, after: str) -> bool:
    """Whether the full stop at the end of `before` belongs to an abbreviation, so that the sentence
    continues in `after`. `before` is a sentence or its last 40 characters."""
    is_number, first = _NUMBER.match(after), after[:1]
    if not is_number and first.lower() == first.upper():
        return False
    if _ORDINAL.search(before, max(0, len(before) - 4)):
        return bool(_MONTH.match(after) or _GERMAN_ORDINAL.search(before))
    last = _LAST_WORD.search(before, max(0, len(before) - 16))
    if not last:
        return False
    word, is_amount = last["word"], bool(last["amount"])
    is_short = bool(_LETTERS.fullmatch(word) or _TWO_PARTS.search(before))
    if is_number:
        starts = last.start("word") == 0 and word in _NUMBERED_AT_START
        return starts or is_short or _leads_to_number(word, is_amount, after)
    if first.islower():
        return is_short or word in _BEFORE_SMALL
    if is_amount:  # `5 Mio. Euro`; in Russian a letter for `year` follows a number
        return word in _SCALES
    if _LETTER.match(after) and (is_short or word in _BEFORE_SMALL):
        return True
    is_part = word in _PARTS and bool(_PART.match(after))
    return is_part or word in _TITLES or bool(_TWO_PARTS.search(before))


def _leads_to_number(word: str, is_amount: bool, after: str) -> bool:
    if word in _DAYS:
        return bool(_DAY.match(after))
    return word in _BEFORE_NUMBER or (not is_amount and bool(_VOWELLESS.fullmatch(word)))
