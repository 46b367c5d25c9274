"""Modules of the extractor as the parts of a codec, named ``<module>/<part>``, and back."""

from collections.abc import Iterable

from fedkim_core.codecs import Codec, Part, Parts
from fedkim_core.contract import Arrays, Contract, ExchangeError
from fedkim_core.vectors import flatten, unflatten


def pack(arrays: Arrays, codec: Codec, sent: Arrays | None = None) -> Parts:
    """Encode each module's weights, or what they changed from ``sent``."""
    parts: Parts = {}
    for module, parameters in arrays.items():
        vector = flatten(parameters)
        if sent is not None and not codec.exact:
            vector = vector - flatten(sent[module])
        parts |= {f"{module}/{name}": part for name, part in codec.encode(vector).items()}
    return parts


def layout(names: Iterable[str], contract: Contract, codec: Codec) -> dict[str, Part]:
    """What each part of these names must be.

    Raises:
        ExchangeError: a module is not on the allow-list, or is not made of the codec's parts.
    """
    found: dict[str, set[str]] = {}
    for key in names:
        module, _, name = key.partition("/")
        if module not in contract.shapes:
            raise ExchangeError(f"module {module!r} is not on the allow-list")
        found.setdefault(module, set()).add(name)
    expected: dict[str, Part] = {}
    for module, own in found.items():
        parts = codec.layout(contract.size(module))
        if odd := sorted(own ^ parts.keys()):
            raise ExchangeError(f"module {module}: part {odd[0]!r} missing or unknown")
        expected |= {f"{module}/{name}": part for name, part in parts.items()}
    return expected


def unpack(parts: Parts, contract: Contract, codec: Codec, sent: Arrays | None = None) -> Arrays:
    """What :func:`pack` made; the parts are as :func:`layout` says.

    Raises:
        ExchangeError: they cannot be decoded, or to nothing finite.
    """
    groups: dict[str, Parts] = {}
    for key, value in parts.items():
        module, _, name = key.partition("/")
        groups.setdefault(module, {})[name] = value
    arrays: Arrays = {}
    for module, group in groups.items():
        try:
            vector = codec.decode(group, contract.size(module))
        except ValueError as error:
            raise ExchangeError(f"{module}/{error}") from error
        if sent is not None and not codec.exact:
            vector = vector + flatten(sent[module])
        arrays[module] = unflatten(vector, contract.shapes[module])
    contract.check_arrays(arrays)
    return arrays
