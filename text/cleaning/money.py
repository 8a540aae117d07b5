"""Amounts of money, in English: 1 dollar and 25 cents, a 1.4 billion dollar loan.

No library has a table that fits: CLDR's (babel) has no cents and calls $ "US dollars"; num2words
says "pounds sterling". What may be no English amount (US$5, €1.234,56, 4,99 €) stays unchanged.
"""

import re

from text.aligned import AlignedText, Piece, Pieces
from text.writing_systems import HAN

_CENTS = ("cent", "cents")
_CURRENCIES: dict[str, tuple[str, str, tuple[str, str] | None]] = {
    "$": ("dollar", "dollars", _CENTS),
    "\u20ac": ("euro", "euros", _CENTS),
    "\u00a3": ("pound", "pounds", ("penny", "pence")),
    "\u00a5": ("yen", "yen", None),
    "\u20b9": ("rupee", "rupees", None),
    "\u20a9": ("won", "won", None),
    "\u20bd": ("ruble", "rubles", None),
    "\u20ba": ("lira", "lira", None),
    "\u20aa": ("shekel", "shekels", None),
    "\u20b4": ("hryvnia", "hryvnias", None),
    "\u20a6": ("naira", "naira", None),
    "\u20b1": ("peso", "pesos", None),
    "\u20bf": ("bitcoin", "bitcoins", None),
    "\u00a2": ("cent", "cents", None),
}
_SCALES = {"k": "thousand", "m": "million", "mn": "million", "mil": "million"} | {
    "b": "billion",
    "bn": "billion",
    "tn": "trillion",
}
SIGNS = "".join(_CURRENCIES)
_BEFORE = rf"(?<![\w{SIGNS}])(?<!\d-)"
_AMOUNT = r"(?:\d{1,12}(?:,\d{3}){0,5}(?:\.\d{1,2})?|\.\d\d)"
_SCALE = (
    r"[ -]?(?:hundred|thousand|million|billion|trillion|lakh|crore)\b"
    r"|(?: ?(?:bn|tn|mn|mil)|[kmb])\b"
)
_CODES = "USD|CAD|AUD|NZD|HKD|SGD|MXN|EUR|GBP|JPY|CNY|INR"
_NAMES = "|".join({one for one, _, _ in _CURRENCIES.values()})
_AFTER = (
    rf"(?!\w|[.,]?\d|-(?!(?:an?|per)-|(?:{_NAMES})\b)[\w{SIGNS}]|\+| (?:{_CODES})\b)"
    r"(?=(?:[ -](?P<next>[a-z]{1,20}))?)"
)
_MONEY = re.compile(
    rf"(?P<one>\b(?:an?|another|each|every|per) )?{_BEFORE}(?P<minus>-)?(?P<sign>[{SIGNS}]) ?"
    rf"(?P<less>-(?=\d))?(?P<amount>{_AMOUNT})(?P<scale>{_SCALE})?"
    rf"(?:-(?P=sign)?(?P<to>{_AMOUNT})(?P<to_scale>{_SCALE})?)?"
    rf"(?:(?P<per> ?/ ?)(?=[a-z])|{_AFTER})",
    re.I,
)
_TRAILING = re.compile(
    rf"(?P<one>\b(?:an?|another|each|every|per) )?(?<![\w.,{SIGNS}])(?P<minus>-)?"
    rf"(?P<amount>\d{{1,3}}(?:,\d{{3}}){{1,4}}(?:\.\d\d)?|\d{{1,12}}(?:\.\d\d)?) ?"
    rf"(?P<sign>[{SIGNS}])(?P<scale>(?!))?(?P<to>(?!))?(?P<to_scale>(?!))?(?P<less>(?!))?"
    rf"(?:(?P<per> ?/ ?)(?=[a-z])|(?![{SIGNS}]){_AFTER})",
    re.I,
)
# After an amount these are no noun. Any other lower-case word there is: a $5 bill.
_NO_NOUN = re.compile(
    "a|about|above|after|again|ago|all|almost|already|also|although|an|and|any|apiece|are|"
    "around|as|at|away|back|be|because|been|before|below|between|bought|both|bring|brings|"
    "but|buy|buys|by|came|can|cash|cheaper|combined|come|comes|could|cover|covers|daily|"
    "did|do|does|down|due|during|each|either|else|even|ever|every|extra|far|for|from|gave|"
    "get|gets|go|goes|got|had|has|have|he|her|here|hers|higher|him|his|how|however|i|if|in|"
    "instead|into|is|it|its|just|keep|keeps|last|later|leave|leaves|left|less|like|lower|"
    "made|make|makes|many|may|me|mean|means|might|mine|minus|missing|more|most|much|must|"
    "my|near|needs|never|next|no|nor|not|now|of|off|often|on|once|one|only|onto|or|our|out|"
    "over|paid|past|pay|pays|per|please|plus|poorer|remain|remains|richer|rather|right|sat|"
    "saved|seems|shall|she|short|should|since|so|some|sometimes|sits|soon|spent|still|such|"
    "take|takes|than|that|the|their|them|then|there|these|they|this|those|though|through|"
    "till|to|today|together|tomorrow|tonight|too|total|toward|towards|under|unless|until|"
    "up|upfront|us|very|via|vs|was|we|well|went|were|what|when|where|whether|which|while|"
    "who|whom|whose|why|will|with|within|without|won|worth|would|year|yesterday|yet|you|"
    "your"
)


_HAN = re.compile(f"[{HAN}]")


def say_money(text: AlignedText) -> AlignedText:
    """Replaces amounts of money by English words."""
    # In a text with Han characters ¥ may be yuan or yen, so it stays.
    keep = "\u00a5" if _HAN.search(text.text) else ""
    is_ascii = text.text.isascii()

    def said(match: re.Match[str]) -> Pieces | None:
        is_left = not is_ascii and (match["sign"] == keep or _is_foreign(match))
        return None if is_left else _said(match)

    return text.sub(_MONEY, said, SIGNS).sub(_TRAILING, said, SIGNS)


def _is_foreign(match: re.Match[str]) -> bool:
    """Whether a character beside an amount is a letter of a script that is not Latin."""
    start, end = match.span()
    beside = match.string[max(0, start - 2) : start] + match.string[end : end + 2]
    return any(char > "\u024f" and char.isalpha() for char in beside)


def _said(match: re.Match[str]) -> Pieces:
    one, many, small = _CURRENCIES[match["sign"]]
    is_named = match["next"] in (one, many)  # $5 million dollars
    if _names_its_noun(match) and not is_named:
        many, small = one, small and (small[0], small[0])
    pieces: list[Piece] = [
        *_kept(match, "one"),
        "minus " if match["minus"] or match["less"] else "",
    ]
    if small and match["amount"][-3:-2] == "." and not match["scale"] and not match["to"]:
        pieces += _with_cents(match, (one, many), small)
    else:
        pieces += [*_kept(match, "amount"), *_scale(match, "scale")]
        if match["to"]:
            pieces += [" to ", *_kept(match, "to"), *_scale(match, "to_scale")]
        is_one = match["amount"] == "1" and not match["scale"] and not match["to"]
        if not is_named:
            pieces += [" ", one if is_one else many]
    return [*pieces, " per " if match["per"] else ""]


def _kept(match: re.Match[str], group: str) -> list[Piece]:
    return [slice(*match.span(group))] if match[group] else []


def _scale(match: re.Match[str], group: str) -> list[Piece]:
    scale = (match[group] or "").strip(" -").lower()
    if scale in _SCALES:
        return [" ", _SCALES[scale]]
    end = match.end(group)
    return [" ", slice(end - len(scale), end)] if scale else []


def _names_its_noun(match: re.Match[str]) -> bool:
    """Whether a noun follows the amount: a `$5 bill`, but not `$5 for it`.

    Languages other than English write the sign last, so nothing follows there.
    """
    following = match["next"] or ""
    if match["one"] or (match["to_scale"] or match["scale"] or "")[:1] == "-":
        return True
    if not following.islower() or match.start("sign") > match.start("amount"):
        return False
    return not _NO_NOUN.fullmatch(following) and not following.endswith(("ly", "ed", "ing"))


def _with_cents(
    match: re.Match[str], names: tuple[str, str], small: tuple[str, str]
) -> list[Piece]:
    start, end = match.span("amount")
    units, cents = match["amount"][:-3], match["amount"][-2:]
    said: list[Piece] = [slice(start, end - 3), f" {names[units != '1']}"]
    if cents == "00":
        return said
    said_cents: list[Piece] = [slice(end - 2 + (cents[0] == "0"), end), f" {small[cents != '01']}"]
    return said_cents if units in ("", "0") else [*said, " and ", *said_cents]
