"""The foundation models that are known: those with a card in conf/foundation."""

from fedkim_core.config import compose
from fedkim_core.paths import CONF
from fedkim_core.settings import FoundationConfig


def cards() -> dict[str, FoundationConfig]:
    """The foundation models that have a card, smallest first."""
    found = {
        path.stem: compose([f"foundation={path.stem}"]).foundation
        for path in sorted((CONF / "foundation").glob("*.yaml"))
        if path.stem != "huggingface"
    }
    known = {name: settings for name, settings in found.items() if settings.card}
    return dict(sorted(known.items(), key=lambda item: _size(item[1])))


def _size(settings: FoundationConfig) -> float:
    return (settings.card and settings.card.parameters) or float("inf")
