"""The injected model: extractor, connectors, frozen foundation model and experts as one."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fedkim_core.data.examples import NO, YES, Batch
from fedkim_core.models.connector import Connector
from fedkim_core.models.extractor import KnowledgeExtractor
from fedkim_core.models.foundation import Foundation
from fedkim_core.models.m3oe import Experts, Gate, mutual_information
from fedkim_core.models.probe import check_head, packs
from fedkim_core.models.recompute import no_contexts, recompute
from fedkim_core.models.sequences import Key, Layout, Row, pack, pad, portions, stack
from fedkim_core.settings import InjectorConfig
from fedkim_core.tasks import TaskCard

ANY_TASK = "Answer a question about a patient."
ANY_INPUT = "The input is what is known of the patient."
"""What a gate without task or modality descriptions reads in their place."""
CPU_TOKENS, DEVICE_TOKENS = 320, 4096
"""Tokens of patients that are read together: fewer leave cores idle, and attention within a packed
sequence grows with their square."""


class InjectedModel(nn.Module):
    """A foundation model that can be asked about patients."""

    def __init__(
        self,
        extractor: KnowledgeExtractor,
        foundation: Foundation,
        config: InjectorConfig,
        cards: Mapping[str, TaskCard],
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.cards = dict(cards)
        # Not a submodule: it is frozen, and no checkpoint or optimiser may take it up.
        self._foundation = (foundation,)
        self.foundation_parameters = foundation.parameters
        """Counted before the experts are added."""
        check_head(foundation)
        self._lay = pack if packs(foundation) else stack
        self._most = CPU_TOKENS if foundation.device.type == "cpu" else DEVICE_TOKENS
        self.experts = Experts(foundation.model, config) if config.experts else None
        if config.gradient_checkpointing:
            recompute(foundation.model, self.experts.twice if self.experts else no_contexts)
        self.gate = (
            Gate(
                foundation.width,
                config.experts,
                config.gate.width,
                normalise=config.gate.normalise,
                top_k=config.gate.top_k,
            )
            if config.experts > 1 and config.gate.kind == "learned"
            else None
        )
        self._gate_config, self._expert_count = config.gate, config.experts
        self.merged_for: Key | None = None
        """Whose experts :meth:`keep_merged` has merged."""
        scale = foundation.embedding_size
        self.connectors = nn.ModuleDict(
            {
                name: Connector(extractor.width, foundation.width, scale)
                for name in extractor.encoders
            }
        )
        self._answers = [foundation.answer_ids(answer)[0] for answer in (YES, NO)]
        self.to(foundation.device)

    def train(self, mode: bool = True) -> "InjectedModel":
        if self.experts is not None:
            self.experts.train(mode)
        return super().train(mode)

    @property
    def foundation(self) -> Foundation:
        return self._foundation[0]

    # --- what is asked ---------------------------------------------------------------------

    def loss(self, batch: Batch, heads: Tensor | None = None, distillation: float = 0.0) -> Tensor:
        """Cross-entropy of the answer tokens, mean over supervised tokens.

        Args:
            batch: questions with their answers.
            heads: as in :meth:`losses`.
            distillation: weight of the cross-entropy with them.
        """
        answers, _, taught, _ = self.losses(batch, heads)
        return answers if taught is None else answers + distillation * taught

    def losses(
        self, batch: Batch, heads: Tensor | None = None
    ) -> tuple[Tensor, int, Tensor | None, int]:
        """The parts of the loss, each a mean, with the numbers of what it is the mean of.

        Args:
            batch: questions with their answers.
            heads: ``[B]`` probability of "yes" by the federated heads, NaN where there is none.

        Returns:
            Cross-entropy of the answer tokens, and how many are supervised; binary cross-entropy
            between the logit of "yes" against "no" and ``heads``, and how many rows have one (None
            and 0 without any).
        """
        with self._autocast():
            rows = self._rows(batch, answers=True)
            layout = self._lay(self.foundation, rows)
            hidden = self._hidden(layout)
            supervised = layout.targets >= 0
            # The head is the widest layer of all: it runs only where a token is supervised.
            logits = self.foundation.head(hidden[supervised])
        answers = nn.functional.cross_entropy(logits, layout.targets[supervised])
        if heads is None or heads.isnan().all():
            return answers, len(logits), None, 0
        known = ~heads.isnan()
        lengths = torch.tensor([len(row.answer) for row in rows])
        first = lengths.cumsum(0) - lengths
        pair = logits[first.to(logits.device)][:, self._answers]
        margin = (pair[:, 0] - pair[:, 1])[known.to(pair.device)]
        taught = nn.functional.binary_cross_entropy_with_logits(margin, heads[known].to(margin))
        return answers, len(logits), taught, int(known.sum())

    @torch.no_grad()
    def score(self, batch: Batch, *, plain: bool = False) -> Tensor:
        """``[B]`` logit of "yes" against "no" as the next token.

        ``plain``: the foundation model alone, which sees only the text.
        """
        ids = torch.tensor(self._answers, device=self.foundation.device)
        with self._autocast():
            rows = self._rows(batch, answers=False, plain=plain)
            layouts = [self._lay(self.foundation, few) for few in portions(rows, self._most)]
            ends = [self._hidden(layout, plain=plain)[layout.ends] for layout in layouts]
            pair = self.foundation.head(torch.cat(ends), ids)
        return (pair[:, 0] - pair[:, 1]).cpu()

    @torch.no_grad()
    def generate(self, batch: Batch, max_new_tokens: int, *, plain: bool = False) -> list[str]:
        """Greedy answers, so that the same model always says the same."""
        foundation = self.foundation
        model: Any = foundation.model
        with self._autocast():
            rows = self._rows(batch, answers=False, plain=plain)
            embeddings, mask = pad(foundation, rows)
            with self._gated([row.gate for row in rows], plain=plain):
                ids = model.generate(
                    inputs_embeds=embeddings,
                    attention_mask=mask.long(),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    num_beams=1,
                    temperature=None,
                    top_p=None,
                    top_k=None,
                    eos_token_id=foundation.end_id,
                    pad_token_id=foundation.tokenizer.pad_token_id,
                )
        answers = foundation.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [answer.strip().split("\n")[0].strip() for answer in answers]

    @contextmanager
    def merged(self, key: Key) -> Iterator[None]:
        """Within this context only questions of ``key`` are asked, as fast as the bare model.

        The experts are merged into the frozen weights, which takes those a second time in memory;
        where the weights do not allow it (:attr:`Experts.mergeable`) nothing changes.
        """
        if self.experts is None or not self.experts.mergeable:
            yield
            return
        with self.experts.merged(self._alpha(key)):
            yield

    def keep_merged(self, key: Key | None) -> None:
        """As :meth:`merged`, until this is called again; None ends it.

        To change from one key to another takes about as long as to answer a question.
        """
        if key == self.merged_for or self.experts is None or not self.experts.mergeable:
            return
        self.experts.unmerge()
        self.merged_for = None
        if key is not None:
            self.experts.merge(self._alpha(key))
            self.merged_for = key

    def key(self, task: str, given: Collection[str]) -> Key:
        """What the gate reads of a question of ``task`` about a patient with these modalities."""
        # A question is text, so the text modality is always there.
        return task, tuple(m for m in self.cards[task].modalities if m == "text" or m in given)

    # --- the gate --------------------------------------------------------------------------

    @torch.no_grad()
    def _alpha(self, key: Key) -> Tensor:
        return self.alphas([key])[0]

    def alphas(self, keys: Sequence[Key]) -> Tensor:
        """Expert weights ``[N, P]`` of (task, modalities present) pairs."""
        if self.gate is None:
            size = len(keys), self._expert_count
            return torch.full(size, 1 / self._expert_count, device=self.foundation.device)
        cards = [self.cards[task] for task, _ in keys]
        described = self._gate_config
        tasks = [card.description if described.task_description else ANY_TASK for card in cards]
        inputs = [
            card.modality_description(present) if described.modality_description else ANY_INPUT
            for card, (_, present) in zip(cards, keys, strict=True)
        ]
        task, task_mask = self._embed(tasks)
        modality, modality_mask = self._embed(inputs)
        with torch.autocast(self.foundation.device.type, enabled=False):
            return torch.as_tensor(self.gate(task, task_mask, modality, modality_mask))

    def task_alphas(self, names: Sequence[str]) -> Tensor:
        """Expert weights ``[N, P]`` of tasks with all their modalities present."""
        return self.alphas([(name, self.cards[name].modalities) for name in names])

    def gate_information(self) -> Tensor:
        """I(task; expert) in nats over the trained tasks.

        Unseen tasks take no part: pushed away from the others they would be given experts that
        no data ever trains.
        """
        trained = [name for name, card in self.cards.items() if card.role == "train"]
        return mutual_information(self.task_alphas(trained))

    def _gated(
        self, keys: Sequence[Key], *, packed: bool = False, plain: bool = False
    ) -> AbstractContextManager[None]:
        """Answer row i, or token i of a packed sequence, with the experts' weights of its key."""
        if self.experts is None:
            return nullcontext()
        if plain:
            return self.experts.disabled()
        distinct = {key: i for i, key in enumerate(sorted(set(keys)))}
        alpha = self.alphas(list(distinct))[[distinct[key] for key in keys]]
        return self.experts.gated(alpha[None] if packed else alpha)

    def _embed(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Frozen token embeddings ``[N, n, width]`` in float32 and their mask ``[N, n]``."""
        foundation = self.foundation
        ids = [torch.tensor(foundation.token_ids(text)) for text in texts]
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True).to(foundation.device)
        lengths = torch.tensor([len(i) for i in ids], device=foundation.device)
        mask = torch.arange(padded.shape[1], device=foundation.device) < lengths[:, None]
        return foundation.embed(padded).float(), mask

    # --- sequences -------------------------------------------------------------------------

    def _hidden(self, layout: Layout, *, plain: bool = False) -> Tensor:
        """``[b * n, width]`` hidden states of every token."""
        with self._gated(layout.gates, packed=layout.packed, plain=plain):
            hidden = self.foundation.hidden(layout.embeddings, layout.mask, layout.positions)
        return hidden.flatten(0, 1)

    def _rows(self, batch: Batch, *, answers: bool, plain: bool = False) -> list[Row]:
        """One row per question; ``plain`` leaves out what the foundation model cannot read."""
        foundation = self.foundation
        features = {} if plain else self._feature_embeddings(batch)
        having: list[set[str]] = [set() for _ in batch.tasks]
        for name, own in batch.features.items():
            for i in own.rows.tolist():
                having[i].add(name)
        rows = []
        for i, task in enumerate(batch.tasks):
            card = self.cards[task]
            question = foundation.token_ids(f" Question: {batch.questions[i]}")
            prompt = [*foundation.start_ids(), *question]
            parts: list[Tensor] = []
            for name in card.encoded:
                if (name, i) in features:
                    label = foundation.token_ids(f" {name.capitalize()}:")
                    if parts:
                        parts.append(self._ids(label))
                    else:  # all rows of the same gate have it, so they can share it
                        prompt += label
                    parts.append(features[name, i])
            note = batch.texts[i]
            if note:
                parts.append(self._text(f" Note: {note}"))
            parts.append(self._ids(foundation.lead_ids()))
            answer: list[int] = []
            if answers:
                answer = [*foundation.answer_ids(batch.answers[i]), foundation.end_id]
                parts.append(self._ids(answer[:-1]))
            key = self.key(task, having[i])
            rows.append(Row(key, tuple(prompt), torch.cat(parts), tuple(answer)))
        return rows

    def _feature_embeddings(self, batch: Batch) -> dict[tuple[str, int], Tensor]:
        """Connected tokens ``[K, width]`` by (modality, row)."""
        with torch.autocast(self.foundation.device.type, enabled=False):
            return {
                (name, row): embedded.to(self.foundation.dtype)
                for name, (rows, tokens) in self.extractor.tokens(batch).items()
                for row, embedded in zip(rows.tolist(), self.connectors[name](tokens), strict=True)
            }

    def _text(self, text: str) -> Tensor:
        return self._ids(self.foundation.token_ids(text))

    def _ids(self, ids: Sequence[int]) -> Tensor:
        device = self.foundation.device
        return self.foundation.embed(torch.tensor(ids, dtype=torch.long, device=device))

    def _autocast(self) -> AbstractContextManager[object]:
        foundation = self.foundation
        low = foundation.dtype != torch.float32
        return torch.autocast(foundation.device.type, foundation.dtype) if low else nullcontext()
