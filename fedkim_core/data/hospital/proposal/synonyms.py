"""What hospitals call things: names of columns, laboratory values and answers become ours.

The words are in ``conf/synonyms.yaml``.
"""

import re
import unicodedata
from functools import cache
from typing import Any, cast

import yaml

from fedkim_core.data.units import to_card, variables
from fedkim_core.paths import CONF

_BRACKET = re.compile(r"[\[({]([^\])}]*)[\])}]")


def plain(word: str) -> str:
    """Lower case without accents, spaces and punctuation."""
    apart = unicodedata.normalize("NFKD", word.casefold())
    return "".join(sign for sign in apart if sign.isalnum())


def bare(word: str) -> str:
    """Without what stands in brackets."""
    return _BRACKET.sub(" ", word).strip()


def is_one_of(word: str, *place: str) -> bool:
    """Whether a word is in a list of ``conf/synonyms.yaml``, such as ``("roles", "patient")``."""
    return plain(word) in _plains(*place)


def role_words(role: str) -> list[str]:
    """How a column of this role is called, the surest name first."""
    return cast(list[str], _file()["roles"][role])


def units_to_try(variable: str) -> list[str]:
    """Units in which a variable is given, where an export does not name it."""
    return cast(list[str], _file()["units"].get(variable, [variables()[variable][1].unit]))


def variable_of(own: str) -> str | None:
    """The variable that a name means, with its unit or specimen or without; None when unknown."""
    parts = re.split(r"[\s_./-]+", bare(own))
    for end in range(len(parts), 0, -1):
        variable, rest = _variables().get(plain(" ".join(parts[:end]))), parts[end:]
        if variable:
            units = (mark.join(rest) for mark in ("/", " ", ""))
            known_unit = any(to_card(variable, unit) is not None for unit in units)
            if not rest or known_unit or is_one_of(" ".join(rest), "specimens"):
                return variable
    if len(parts) > 1 and is_one_of(parts[0], "specimens"):
        return _variables().get(plain(" ".join(parts[1:])))
    return None


def unit_in(own: str, variable: str) -> str | None:
    """The unit that a name carries: ``Kreatinin [µmol/l]``, ``creatinine_mg_dl``."""
    parts = re.split(r"[\s_]+", own.strip())
    ends = [mark.join(parts[i:]) for i in range(1, len(parts)) for mark in ("/", " ")]
    found = (word for word in (*_BRACKET.findall(own), *ends) if word)
    return next((word for word in found if to_card(variable, word) is not None), None)


@cache
def _file() -> dict[str, Any]:
    text = (CONF / "synonyms.yaml").read_text(encoding="utf-8")
    return cast(dict[str, Any], yaml.load(text, Loader=yaml.BaseLoader))  # "no" is a word here


@cache
def _plains(*place: str) -> frozenset[str]:
    words: Any = _file()
    for key in place:
        words = words[key]
    return frozenset(map(plain, words))


@cache
def _variables() -> dict[str, str]:
    return {plain(w): name for name, words in _file()["variables"].items() for w in (name, *words)}
