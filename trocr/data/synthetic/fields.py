"""What stands in the fields of receipts and the cells of tables: amounts, dates, times, codes, names.

Source: original work; the fields follow what Malaysian receipts of SROIE are known to print, with made-up
names and numbers.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np

_RECEIPT_WORDS = (
    "CASH",
    "CHANGE",
    "TAX INVOICE",
    "SUBTOTAL",
    "SUB TOTAL",
    "ROUNDING ADJUSTMENT",
    "THANK YOU, PLEASE COME AGAIN",
    "GOODS SOLD ARE NOT RETURNABLE",
    "QTY",
    "AMOUNT",
    "AMOUNT (RM)",
    "TAX (RM)",
    "SR",
    "ITEM",
    "DESCRIPTION",
    "CASHIER",
    "DATE",
    "TIME",
    "INVOICE NO",
    "TOTAL INCLUSIVE GST",
    "TOTAL SALES",
    "DISCOUNT",
    "PRICE",
    "TABLE",
    "BILL NO.",
    "VISA CARD",
    "GST SUMMARY",
    "TAX CODE",
    "TOTAL",
    "NET",
)


class Words(Protocol):
    """Where names and descriptions come from."""

    def word(self, rng: np.random.Generator) -> str:
        """Draw a word."""

    def phrase(self, rng: np.random.Generator, count: int) -> str:
        """Draw words with spaces between."""


Field = Callable[[Words, np.random.Generator], str]


def digits(rng: np.random.Generator, count: int) -> str:
    """Random digits."""
    return "".join(map(str, rng.integers(0, 10, count)))


def capital(rng: np.random.Generator) -> str:
    """A random capital letter."""
    return chr(65 + rng.integers(26))


def amount(rng: np.random.Generator) -> str:
    """An amount of money: often nothing, often round."""
    chance = rng.random()
    whole = (
        0 if chance < 0.15 else int(rng.integers(0, 400)) if chance < 0.9 else int(rng.integers(400, 99999))
    )
    text = f"{whole:,}" if rng.random() < 0.5 else str(whole)
    cents = (
        0
        if rng.random() < 0.25
        else int(rng.integers(10)) * 10
        if rng.random() < 0.5
        else int(rng.integers(100))
    )
    return f"{text}.{cents:02}"


def date(rng: np.random.Generator) -> str:
    """A date in one of the usual forms."""
    day, month, year = int(rng.integers(1, 32)), int(rng.integers(1, 13)), int(rng.integers(2005, 2027))
    name = (["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"])[month - 1]
    forms = (
        f"{day:02}/{month:02}/{year}",
        f"{day:02}-{month:02}-{year}",
        f"{year}-{month:02}-{day:02}",
        f"{day}.{month}.{year}",
        f"{day:02} {name} {year}",
        f"{day:02}-{name}-{year % 100:02}",
        f"{day:02}/{month:02}/{year % 100:02}",
    )
    return forms[rng.integers(len(forms))]


def clock(rng: np.random.Generator) -> str:
    """A time of day."""
    if rng.random() < 0.4:
        return (
            f"{rng.integers(1, 13):02}:{rng.integers(60):02}:{rng.integers(60):02} {'AP'[rng.integers(2)]}M"
        )
    return f"{rng.integers(24):02}:{rng.integers(60):02}" + (
        f":{rng.integers(60):02}" if rng.random() < 0.5 else ""
    )


FIELDS: tuple[Field, ...] = (
    lambda t, r: f"TOTAL: {amount(r)}",
    lambda t, r: amount(r),
    lambda t, r: f"RM {amount(r)}" if r.random() < 0.5 else f"RM{amount(r)}",
    lambda t, r: f"{r.integers(1, 30)} X {amount(r)} {amount(r)}",
    lambda t, r: f"{date(r)} {clock(r)}",
    lambda t, r: date(r) if r.random() < 0.6 else f"DATE : {date(r)}",
    lambda t, r: clock(r) if r.random() < 0.5 else f"TIME: {clock(r)}",
    lambda t, r: f"{t.phrase(r, int(r.integers(1, 4)))} SDN BHD",
    lambda t, r: f"NO. {r.integers(1, 300)}, JALAN {t.word(r)} {r.integers(1, 20)}/{r.integers(1, 20)},",
    lambda t, r: f"LOT {capital(r)}{r.integers(99)}, TAMAN {t.phrase(r, 2)},",
    lambda t, r: f"{digits(r, 5)} {t.word(r)}, {t.word(r)}.",
    lambda t, r: f"TEL: {digits(r, 2)}-{digits(r, 4)} {digits(r, 4)}",
    lambda t, r: f"TEL : {digits(r, 3)}-{digits(r, 7)} FAX : {digits(r, 3)}-{digits(r, 7)}",
    lambda t, r: f"GST ID : {digits(r, 12)}" if r.random() < 0.5 else f"(GST REG NO: {digits(r, 12)})",
    lambda t, r: f"({digits(r, 6)}-{capital(r)})",
    lambda t, r: t.phrase(r, int(r.integers(1, 5))),
    lambda t, r: f"{digits(r, int(r.integers(4, 14)))} {t.phrase(r, int(r.integers(1, 3)))}",
    lambda t, r: digits(r, int(r.integers(1, 14))),
    lambda t, r: _RECEIPT_WORDS[r.integers(len(_RECEIPT_WORDS))],
    lambda t, r: _RECEIPT_WORDS[r.integers(len(_RECEIPT_WORDS))] + (":" if r.random() < 0.5 else " :"),
    lambda t, r: f"{t.word(r)} : {digits(r, int(r.integers(1, 8)))}",
    lambda t, r: f"{('SR', 'ZRL', 'TX', 'S')[r.integers(4)]} {r.integers(0, 7)}% {amount(r)} {amount(r)}",
    lambda t, r: f"{r.integers(1, 9)} {t.phrase(r, int(r.integers(1, 4)))} {amount(r)}",
    lambda t, r: f"*{digits(r, 4)}{t.word(r)}-{digits(r, 2)}G",
    lambda t, r: f"{capital(r)}{capital(r)}{digits(r, int(r.integers(3, 9)))}-{digits(r, 3)}",
    lambda t, r: f"{amount(r)} {('SR', 'S', 'Z', 'T', '*', 'ZRL')[r.integers(6)]}",
    lambda t, r: f"-{amount(r)}" if r.random() < 0.5 else f"${amount(r)}",
    lambda t, r: f"{r.integers(1, 30)}{('PCS', 'KG', 'ML', 'UNIT', 'G', 'PKT')[r.integers(6)]} @ {amount(r)}",
)
"""Makers of a field, each as often as any other."""
