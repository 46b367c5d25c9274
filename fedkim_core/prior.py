"""Controls that could prove a gain wrong, and what is left of it.

A model that learned from the sites answers worse when a patient's features are replaced by
another's. A gain over the foundation model alone that survives this comes from the wording of
questions and answers: a language prior, not knowledge.
"""

from typing import TypedDict

import numpy as np

from fedkim_core.answers import Answers
from fedkim_core.metrics import auroc
from fedkim_core.statistics.resample import Difference, Estimate
from fedkim_core.tasks import TaskCard

SHUFFLED = "shuffled"
LABELS_PERMUTED = "labels_permuted"
PERMUTATIONS = 200
TEXT_PERMUTATIONS = 20
"""Of free text, whose pairs of answers cost more to score."""
VERDICTS = ("knowledge", "partly language prior", "language prior", "undecided", "no gain")


class LanguagePrior(TypedDict):
    """What shuffled features say about a gain."""

    verdict: str
    """``no gain``: the injected model is not clearly above the foundation model alone.
    ``knowledge``: shuffling clearly costs, and no clear gain is left.
    ``partly language prior``: shuffling clearly costs, and a clear gain is left.
    ``language prior``: a clear gain is left, and shuffling costs nothing clear.
    ``undecided``: neither is clear."""
    share: float | None
    """Of the gain, how much is left after shuffling, cut to 0..1; null without a clear gain."""


def language_prior(gain: Difference, kept: Difference, lost: Difference) -> LanguagePrior:
    """Judge a gain; a difference is clear when its 95 % interval lies above 0.

    Args:
        gain: injected minus before.
        kept: shuffled minus before.
        lost: injected minus shuffled.
    """
    if not _above(gain):
        return {"verdict": "no gain", "share": None}
    verdicts = {
        (True, False): "knowledge",
        (True, True): "partly language prior",
        (False, True): "language prior",
        (False, False): "undecided",
    }
    share = float(np.clip(kept["value"] / gain["value"], 0, 1))
    return {"verdict": verdicts[_above(lost), _above(kept)], "share": share}


def _above(difference: Difference) -> bool:
    return difference["low"] is not None and difference["low"] > 0


def permuted_labels(card: TaskCard, answers: Answers, seed: int) -> Estimate | None:
    """The leading metric when the true answers are dealt out among the rows anew, many times.

    Returns:
        Mean and the range that holds 95 % of the permutations: what chance reaches on these rows.
        None where the metric cannot be computed.
    """
    rng = np.random.default_rng(seed)
    if card.answer == "yes_no":
        labels, logits = np.array(answers.labels), np.array(answers.logits)
        if not len(labels) or not np.isfinite(logits).all() or labels.min() == labels.max():
            return None
        drawn = [auroc(rng.permutation(labels), logits) for _ in range(PERMUTATIONS)]
    else:
        if not answers.truth:
            return None
        drawn = _permuted_texts(answers, card.metrics[0], rng)
    values = np.array(drawn, dtype=np.float64)
    low, high = np.quantile(values, (0.025, 0.975))
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def _permuted_texts(answers: Answers, metric: str, rng: np.random.Generator) -> list[float | None]:
    """Every pair of a true and a given answer is scored once."""
    from fedkim_core.text_metrics import score_rows  # its packages take a second to import

    orders = [rng.permutation(len(answers.truth)) for _ in range(TEXT_PERMUTATIONS)]
    dealt = [[answers.truth[i] for i in order] for order in orders]
    pairs = sorted({pair for truth in dealt for pair in zip(truth, answers.texts, strict=True)})
    scored = score_rows([true for true, _ in pairs], [said for _, said in pairs])[metric]
    score_of = dict(zip(pairs, scored.tolist(), strict=True))
    return [
        float(np.mean([score_of[pair] for pair in zip(truth, answers.texts, strict=True)]))
        for truth in dealt
    ]
