"""Scores of one generated answer against one true answer, each 0..1.

===========  ==================================================================================
bleu1        sentence BLEU of unigrams with brevity penalty (Papineni et al., ACL 2002), sacrebleu,
             tokeniser 13a, lower case. With one order there is nothing to smooth: no match is 0.
rouge_l      F1 of the longest common subsequence (Lin, ACL workshop 2004), rouge-score, no stemmer
meteor       METEOR (Banerjee & Lavie, ACL workshop 2005), nltk, matching equal words and Porter
             stems but no synonyms: WordNet is a download. A lone right word scores 0.5 by
             METEOR's own penalty for one chunk per match.
exact_match  1 if equal after lower case and without punctuation, articles and spare blanks (the
             normalisation of SQuAD: Rajpurkar et al., EMNLP 2016)
===========  ==================================================================================
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from nltk.stem.porter import PorterStemmer
from nltk.translate.meteor_score import meteor_score
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from fedkim_core.tasks import FREE_TEXT_METRICS

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WORD = re.compile(r"\w+|[^\w\s]")


class _NoSynonyms:
    """Stands where nltk expects WordNet: no word has a synonym."""

    def synsets(self, word: str) -> list[str]:
        return []


def normalise(text: str) -> str:
    """Lower case, no punctuation, no English article, single blanks."""
    kept = "".join(c for c in text.lower() if not unicodedata.category(c).startswith("P"))
    return " ".join(_ARTICLES.sub(" ", kept).split())


def score_rows(
    answers: Sequence[str], predictions: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Every score of every row.

    Returns ``[n]`` per name of ``FREE_TEXT_METRICS``.
    """
    bleu = BLEU(max_ngram_order=1, effective_order=True, smooth_method="none", lowercase=True)
    rouge = RougeScorer(["rougeL"], use_stemmer=False)
    stemmer, synonyms = PorterStemmer(), _NoSynonyms()
    rows = []
    for answer, prediction in zip(answers, predictions, strict=True):
        truth, said = _WORD.findall(answer.lower()), _WORD.findall(prediction.lower())
        rows.append(
            (
                bleu.sentence_score(prediction, [answer]).score / 100,
                rouge.score(answer, prediction)["rougeL"].fmeasure,
                meteor_score([truth], said, stemmer=stemmer, wordnet=synonyms),
                float(normalise(answer) == normalise(prediction)),
            )
        )
    table = np.array(rows, dtype=np.float64).reshape(-1, len(FREE_TEXT_METRICS))
    return dict(zip(FREE_TEXT_METRICS, table.T, strict=True))
