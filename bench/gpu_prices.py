"""What RunPod asks for a card, serverless, flex workers, US dollars a second.

From its documentation as of 2026-08-20. A worker's start is paid for, and so is the time that it
waits for its next job, 5 s by default. Active workers cost less, by contract.
"""

DATE = "2026-08-20"
_PRICES = (  # a piece of the name that torch gives a card; the first that is in it counts
    ("B200", 0.00240),
    ("H200", 0.00155),
    ("H100", 0.00116),
    ("RTX PRO 6000", 0.00111),
    ("A100", 0.00076),
    ("L40S", 0.00053),
    ("RTX 6000 Ada", 0.00053),
    ("L40", 0.00053),
    ("RTX A6000", 0.00034),
    ("A4000", 0.00016),
    ("A40", 0.00034),
    ("4090", 0.00031),
    ("3090", 0.00019),
    ("RTX A5000", 0.00019),
    ("L4", 0.00019),
)


def price(card: str) -> float | None:
    """Of a second on the card of this name, None where it is not known."""
    return next((dollars for piece, dollars in _PRICES if piece in card), None)
