"""InternLM2's tokenizer from its own files, without its authors' code and without sentencepiece.

``tokenizer.json`` is complete in itself. Where there is only ``tokenizer.model``, a byte-pair
encoding by SentencePiece (Kudo and Richardson 2018), it is read as what it is: pieces with scores,
and how text is normalised before.
"""

import json
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges, import_protobuf

from fedkim_core.errors import UserError

BPE_MODEL = 2
CONTROL, USER_DEFINED = 3, 4
"""Kinds of model and of piece in SentencePiece's files."""
SPACE = "\u2581"


def internlm2_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder, by ``tokenizer.json`` or else ``tokenizer.model``.

    Raises:
        UserError: neither is there, or the second is not a byte-pair encoding we can read.
    """
    settings = _settings(folder)
    special = {
        name: settings.get(name) or default
        for name, default in (
            ("unk_token", "<unk>"),
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("pad_token", "</s>"),
        )
    }
    if (folder / "tokenizer.json").is_file():
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    elif (folder / "tokenizer.model").is_file():
        start = special["bos_token"] if settings.get("add_bos_token", True) else None
        backend = read_sentencepiece(folder / "tokenizer.model", start)
    else:
        raise UserError(
            f"{folder}: has neither tokenizer.json nor tokenizer.model; InternLM2's tokenizer is "
            "in one of them, and its code is not executed"
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **special)


def read_sentencepiece(path: Path, start: str | None) -> Tokenizer:
    """A byte-pair encoding of SentencePiece.

    Args:
        path: ``tokenizer.model``.
        start: the piece that every text begins with.

    Raises:
        UserError: damaged, of another kind, or one that rewrites text by a table of its own.
    """
    proto = import_protobuf().ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise UserError(f"{path}: is not a SentencePiece model ({error})") from error
    how = proto.normalizer_spec
    if proto.trainer_spec.model_type != BPE_MODEL or how.precompiled_charsmap:
        raise UserError(
            f"{path}: is not a plain byte-pair encoding; give the folder a tokenizer.json"
        )
    vocabulary = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    scores = {piece.piece: piece.score for piece in proto.pieces}
    backend = Tokenizer(
        BPE(
            vocabulary,
            generate_merges(vocabulary, scores),
            unk_token=proto.trainer_spec.unk_piece,
            fuse_unk=True,
            byte_fallback=proto.trainer_spec.byte_fallback,
        )
    )
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", SPACE)]
    undo = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if how.add_dummy_prefix:
        steps.insert(0, normalizers.Prepend(SPACE))
        undo.append(decoders.Strip(" ", left=1))
    backend.normalizer = normalizers.Sequence(steps)
    backend.decoder = decoders.Sequence(undo)
    backend.add_special_tokens(
        [
            AddedToken(p.piece, special=True, normalized=False)
            for p in proto.pieces
            if p.type == CONTROL
        ]
    )
    backend.add_tokens(
        [AddedToken(p.piece, normalized=False) for p in proto.pieces if p.type == USER_DEFINED]
    )
    if start is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, vocabulary[start])]
        )
    return backend


def _settings(folder: Path) -> dict[str, Any]:
    """``tokenizer_config.json``, whose tokens may be texts or records."""
    path = folder / "tokenizer_config.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {
        key: value["content"] if isinstance(value, dict) and "content" in value else value
        for key, value in found.items()
    }
