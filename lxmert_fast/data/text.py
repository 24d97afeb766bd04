"""Sentences to token ids: BERT's WordPiece with any local vocabulary file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer

from lxmert_fast.data.ragged import Ragged
from lxmert_fast.errors import InputError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Embedding tables are often rounded up to a multiple of 64 or 128 rows.
LARGEST_ROUNDING = 128


class TextEncoder:
    """Lower-casing BERT WordPiece, cut to `max_length` tokens with [CLS] and [SEP] (the original: 20).

    Ids and masks equal those of Hugging Face's `BertTokenizer`, and so the original's: accents are
    stripped, CJK characters are words, a literal "[MASK]" is the mask token, words of more than 100
    characters are [UNK].

    Raises `InputError` for a vocabulary file that is missing, empty, not UTF-8, holds blank or
    duplicate tokens, lacks a special token or has anything but [PAD] at 0 (padding is id 0
    throughout LXMERT).
    """

    DEFAULT_LENGTH = 20

    def __init__(self, vocabulary: str | Path, max_length: int = DEFAULT_LENGTH) -> None:
        if max_length < 3:
            raise InputError(f"max_length is {max_length}, wanted at least 3: [CLS], one token, [SEP]")
        self.vocabulary = Path(vocabulary)
        self.max_length = max_length
        ids = read_vocabulary(self.vocabulary)
        self.vocab_size = len(ids)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[t] for t in SPECIAL_TOKENS)
        self._token_type = np.dtype(np.uint16 if len(ids) <= 1 << 16 else np.int32)

        tokenizer = _bert_pipeline(Tokenizer(WordPiece(ids, unk_token="[UNK]")))
        tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", self.cls_id), ("[SEP]", self.sep_id)]
        )
        tokenizer.enable_truncation(max_length)
        self._tokenizer = tokenizer

    def encode(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and attention mask, both (S, max_length) int64, padded with [PAD] and 0."""
        tokens = self.encode_ragged(sentences)
        ids, real = tokens.padded(np.arange(len(tokens)), self.max_length, self.pad_id)
        return ids, real.astype(np.int64)

    def encode_ragged(self, sentences: Sequence[str]) -> Ragged:
        """Token ids without padding: S rows, two bytes a token; the form to keep and batch from."""
        encodings = self._tokenizer.encode_batch_fast(sentences)
        return Ragged.from_lists((encoding.ids for encoding in encodings), self._token_type)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of one row of ids, special tokens included."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def check_size(self, vocab_size: int) -> None:
        """Raise `InputError` unless an embedding of `vocab_size` rows was made for this vocabulary.

        Too few rows would index outside the table; too many mean another vocabulary, whose ids
        say other words (a table rounded up by less than 128 rows is accepted).
        """
        if not self.vocab_size <= vocab_size < self.vocab_size + LARGEST_ROUNDING:
            raise InputError(
                f"{self.vocabulary}: a vocabulary of the wrong size: {self.vocab_size:,} tokens, the model's "
                f"embedding has {vocab_size:,} rows"
            )


def read_vocabulary(path: Path) -> dict[str, int]:
    """A vocabulary file, one token a line, as token -> id; checks as for `TextEncoder`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot read the vocabulary: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8, wanted one token a line") from None
    lines = text.removesuffix("\n").split("\n")
    if lines == [""]:
        raise InputError(f"{path}: empty, wanted a vocabulary with one token a line")
    ids: dict[str, int] = {}
    for index, token in enumerate(lines):
        if not token.strip():
            raise InputError(f"{path}: line {index + 1} is blank, wanted a token")
        if token in ids:
            raise InputError(f"{path}: line {index + 1} repeats token {token!r} of line {ids[token] + 1}")
        ids[token] = index
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise InputError(f"{path}: no {', '.join(missing)} among its {len(ids):,} tokens")
    if ids["[PAD]"] != 0:
        raise InputError(f"{path}: [PAD] is on line {ids['[PAD]'] + 1}, wanted on line 1 (id 0)")
    return ids


def learn_vocabulary(sentences: Iterable[str], path: str | Path, size: int) -> Path:
    """Train a WordPiece vocabulary of at most `size` tokens and write it, for those without BERT's file.

    [PAD], [UNK], [CLS], [SEP], [MASK] are ids 0 to 4. The same sentences give the same file.
    Raises `InputError` when there is no sentence or `size` cannot hold the characters that occur.
    """
    path = Path(path)
    counts = Counter(sentences)
    tokenizer = _bert_pipeline(Tokenizer(WordPiece(unk_token="[UNK]")))
    words = {
        word
        for sentence in counts
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(sentence))
    }
    if not words:
        raise InputError(f"{path}: no words to learn a vocabulary from")
    # The trainer numbers continuation characters in the order of a randomly seeded hash map, and merges
    # of equal count follow those numbers; naming them as special tokens fixes both.
    continuations = sorted({f"##{character}" for word in words for character in word[1:]})
    alphabet = len({character for word in words for character in word})
    least = len(SPECIAL_TOKENS) + len(continuations) + alphabet
    if size < least:
        raise InputError(
            f"{path}: a vocabulary of {size} tokens, wanted at least {least} for the characters that occur"
        )
    trainer = WordPieceTrainer(
        vocab_size=size,
        limit_alphabet=alphabet,
        special_tokens=[*SPECIAL_TOKENS, *continuations],
        show_progress=False,
    )
    tokenizer.train_from_iterator((s for s, n in counts.items() for _ in range(n)), trainer)
    ids = tokenizer.get_vocab()
    path.write_text(
        "".join(f"{token}\n" for token in sorted(ids, key=lambda token: ids[token])), encoding="utf-8"
    )
    return path


def _bert_pipeline(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    return tokenizer
