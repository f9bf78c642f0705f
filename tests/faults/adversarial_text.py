"""
What redaction costs on hostile text, by length and engine.

Each text is made to begin as many secrets as possible and to end none. The figures are in
microseconds per KB for the whole way of a body: looking for candidates, and walking the text when
there may be some. Work that grows with the square of the length would show as figures that double
from column to column. Exits with 1 when the cost of 100 KB is more than ten times that of 25 KB.

    python tests/faults/adversarial_text.py
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

from harken.errors import RedactionError
from harken.redaction import Redactor

SIZES = (12_500, 25_000, 50_000, 100_000)
ROUNDS = 5
LIMIT = 10.0

# Pieces of the known forms, never a whole one.
PIECES = {
    "a": "a",
    "prose": "the token of the day is kept in the key cabinet, and the password is not. ",
    "jwt begins": "-ey" + "J",
    "jwt parts": "ey" + "Jaaaaaaaaaa.",
    "token": "token ",
    "token:": "token:",
    "password=": "password=",
    "quoted": 'password="',
    "escaped": '\\"token\\":',
    "camel": "passWord",
    "gaps": "api.........",
    "key": "key",
    "capitals": "A_KEY",
    "flags": "--a-token ",
    "dashes": "-a",
    "url": "://a:",
    "url users": "://aaaaaaaaaaaaaaaaaaaaaaaa1",
    "at": "://a:b@@@@",
    "bearer": "bearer ",
    "header": "authorization: basic ",
    "pem dashes": "-----",
    "pem begins": "-----" + "BEGIN ",
    "pem ends": "a\n-----" + "END PRIVATE KEY",
    "cookie": "cookie: a",
    "slack": "xoxb-",
    "openai": "sk-aaaaaaaaaaaaaaaaaaaaT3Blbk" + "F",
    "digits": "12345678",
    "escapes": "token\\",
    "equals": "=",
    "commas": "secret=a,b",
    "json": '{"token":[',
    "brackets": "[",
    "env": "A_TOKEN=b;",
    "quoted env": '"A_TOKEN=b;',
    "schema": "{'token':{'type':'string'},",
    "values": "'value':'a',",
    "pairs": "[['token','",
}


def redacting(engine: str) -> Callable[[str], object]:
    """
    Return what a bus does with a text.
    """
    redactor = Redactor(engine="re2" if engine == "re2" else "python")

    def redact(text: str) -> object:
        line = json.dumps([text], ensure_ascii=False).encode()
        return redactor.tree([text], {}) if redactor.suspicious(line) else text

    return redact


def costs(redact: Callable[[str], object], piece: str) -> list[float]:
    """
    Return the median microseconds per KB for each of `SIZES`, measured in turn.
    """
    texts = [piece * (size // len(piece)) for size in SIZES]
    taken: list[list[float]] = [[] for _ in SIZES]
    for _ in range(ROUNDS):
        for times, text in zip(taken, texts, strict=True):
            begin = time.perf_counter()
            redact(text)
            times.append(time.perf_counter() - begin)
    return [
        statistics.median(times) * 1e6 / (size / 1000)
        for times, size in zip(taken, SIZES, strict=True)
    ]


def steepness(figures: list[float]) -> float:
    """
    Return how many times the cost of 25 KB 100 KB cost.
    """
    return figures[3] * SIZES[3] / (figures[1] * SIZES[1])


def main() -> int:
    """
    Print the table; return 1 when a cost is not linear.
    """
    headings = "".join(f"{size / 1000:>9g} KB" for size in SIZES)
    worst = {}
    for engine in ("re2", "python"):
        try:
            redact = redacting(engine)
        except RedactionError as error:
            print(f"{engine}: {error}")
            continue
        redact("warm up: token=abcdefgh12345678")
        print(f"\n{engine:<12}{headings}   cost of 100 KB / 25 KB   (us per KB)")
        for name, piece in PIECES.items():
            # Whoever else works on the machine may have had one of them wait.
            figures = min((costs(redact, piece) for _ in range(2)), key=steepness)
            ratio = steepness(figures)
            worst[engine, name] = (ratio, figures[3])
            print(f"{name:<12}" + "".join(f"{figure:>12.1f}" for figure in figures), end="")
            print(f"{ratio:>16.1f}")
    steepest = max(worst, key=lambda key: worst[key][0])
    dearest = max(worst, key=lambda key: worst[key][1])
    print(f"\nsteepest: {' '.join(steepest)}: {worst[steepest][0]:.1f} (linear is 4, square is 16)")
    print(f"dearest: {' '.join(dearest)}: {worst[dearest][1]:.0f} us per KB at 100 KB")
    return 0 if worst[steepest][0] <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
