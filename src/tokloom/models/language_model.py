"""A loaded language model with its tokenizer: what the rest of tokloom works with."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tokloom.errors import ArgumentError, ChatTemplateError
from tokloom.tokenize.control import chat_control_tokens, text_backend
from tokloom.tokenize.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from tokloom.models.fused_decoder import FusedDecoder
    from tokloom.models.rotary_scaling import RotaryScaling

DEFAULT_WINDOW = 2048
"""Tokens, for a model that says nowhere how many it takes (a recurrent one, say)."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model, its tokenizer and what both imply. `tokloom.load` makes it.

    Attributes:
        name: what it was loaded by.
        model: of transformers, in eval mode, on `device`; its attention implementation is untouched.
        tokenizer: of transformers, with a `tokenizers` backend.
        device: where the model's weights are.
        dtype: what it computes in.
        weights: how its linear layers keep their weights; see `tokloom.load`.
    """

    name: str
    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerFast = field(repr=False)
    weights: str = "torch"
    device: torch.device = field(init=False)
    dtype: torch.dtype = field(init=False)
    calibrations: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    """What attention policies found out about this model, by their specs."""
    proven: bool = field(default=False, init=False, repr=False)
    """Its logits over a KV store were found to be its own; see `engine/proof.py`."""
    rope: RotaryScaling | None = field(default=None, init=False, repr=False)
    """What its rotary frequencies were scaled by; see `tokloom.models.rotary`."""
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", self.model.device)
        object.__setattr__(self, "dtype", self.model.dtype)

    @cached_property
    def window(self) -> int:
        """The most tokens of prompt and output together."""
        return self._trained_window if self.rope is None else self.rope.window(self._trained_window)

    @cached_property
    def _trained_window(self) -> int:
        config = self.model.config.get_text_config()
        if (constant := self._constant_rotary) is not None:
            return constant
        for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx"):
            length = getattr(config, name, None)
            if isinstance(length, int) and length > 0:
                return length
        length = self.tokenizer.model_max_length
        return int(length) if isinstance(length, int) and 0 < length < 10**9 else DEFAULT_WINDOW

    @property
    def _constant_rotary(self) -> int | None:
        """The tokens up to which the rotary angles do not depend on the length of the whole text, where they do beyond:
        a text that is read in chunks would get the angles of several lengths."""
        parameters = getattr(self.model.config.get_text_config(), "rope_parameters", None) or {}
        nested = [each for each in parameters.values() if isinstance(each, dict)] or [parameters]
        for each in nested:
            if each.get("rope_type") in ("longrope", "dynamic"):
                config = self.model.config.get_text_config()
                original = each.get("original_max_position_embeddings")
                found = original or getattr(config, "original_max_position_embeddings", None)
                return int(found or config.max_position_embeddings)
        return None

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a text: the generation config's and the tokenizer's."""
        found: set[int] = set()
        for listed in (getattr(self.model.generation_config, "eos_token_id", None), self.tokenizer.eos_token_id):
            if listed is not None:
                found.update(listed if isinstance(listed, (list, tuple)) else (listed,))
        return frozenset(int(id) for id in found if 0 <= id < self._logits_width)

    @cached_property
    def mask_id(self) -> int | None:
        """The token that stands for one not known yet, of a masked-diffusion model; None for a causal model."""
        id = getattr(self.model.config, "mask_token_id", None)
        return int(id) if id is not None else None

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The bytes of every token. Raises UnsupportedModelError if the tokenizer's are not known."""
        return Vocabulary(self.tokenizer, self._logits_width, self.eos_ids)

    @cached_property
    def _controls(self) -> list[str]:
        return chat_control_tokens(self.tokenizer)

    @cached_property
    def _text_backend(self) -> Any:
        return text_backend(self.tokenizer, self._controls)

    @cached_property
    def fused(self) -> FusedDecoder | None:
        """The model's layers in the C++ core, None if it runs through transformers' modules."""
        from tokloom.models.fused_decoder import fuse

        return fuse(self.model)

    @property
    def has_chat_template(self) -> bool:
        return bool(self.tokenizer.chat_template)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text.

        special=False: of the text alone. What looks like a special token ("<|im_end|>" in a user's
        document) is encoded as the characters that it is, and nothing is added.
        special=True: as transformers' `tokenizer(text)` does it. Special tokens in the text are
        recognised, and what the tokenizer puts around a text (BOS) is added, but never a second
        time to a text that begins with it.
        """
        ids = self._encode(text, parse=special, add=special)
        bos = self.tokenizer.bos_token_id
        return ids[1:] if special and bos is not None and ids[:2] == [bos, bos] else ids

    def encode_prompt(self, text: str, *, chat: bool) -> list[int]:
        """Token ids of a whole prompt.

        chat=True: `text` is what `chat` rendered. Its special tokens are recognised and none is
        added, because the template has put down all that the model expects, BOS included.
        chat=False: raw text, as `encode(text, special=True)`.
        """
        return self._encode(text, parse=True, add=False) if chat else self.encode(text, special=True)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, special tokens left out."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def count(self, text: str) -> int:
        """Tokens of a text, as `encode(text)` makes them."""
        return len(self.encode(text))

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt for a conversation, up to where the model's answer begins.

        messages: each with "role" and "content", oldest first. Raises ChatTemplateError if the model has
        no chat template or its template refuses these messages; ArgumentError if there are none.
        """
        return str(self._apply_template(messages, tokenize=False))

    def chat_tokens(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of `chat(messages)`, in which what the messages say stays text.

        A document or a user that writes "<|im_end|>" can't end its own turn: only the template's special
        tokens are special. Where no message has any, equal to `encode_prompt(chat(messages), chat=True)`.
        """
        with self._lock:
            self.tokenizer.chat_control_tokens = self._controls
            ids = self._apply_template(messages, tokenize=True, return_dict=False, sanitize_control_tokens=True)
        return list(ids)

    def _apply_template(self, messages: Sequence[Mapping[str, str]], **options: Any) -> Any:
        if not messages:
            raise ArgumentError("messages", [], "at least one message")
        if not self.has_chat_template:
            raise ChatTemplateError(
                f"messages={list(messages)!r:.120} can't be rendered: {self.name} has no chat template."
                " Pass the text as prompt= instead of messages=, or load an instruct model such as"
                ' tokloom.load("smollm2-135m").'
            )
        import jinja2

        plain = [dict(message) for message in messages]
        try:
            return self.tokenizer.apply_chat_template(plain, add_generation_prompt=True, **options)
        except (jinja2.TemplateError, TypeError) as error:
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise ChatTemplateError(
                f"messages with the roles {roles} can't be rendered: the chat template of {self.name} says"
                f" {str(error)!r}. Give the roles that it takes, mostly an optional system message, then user"
                " and assistant in turn, each with a text as content; or pass prompt= instead."
            ) from error

    @cached_property
    def _logits_width(self) -> int:
        """Rows of the output embedding, which may be padded beyond the tokenizer's vocabulary."""
        model: Any = self.model
        head = model.get_output_embeddings()
        width = head.out_features if head is not None else model.config.get_text_config().vocab_size
        return int(width)

    def _encode(self, text: str, *, parse: bool, add: bool) -> list[int]:
        if not isinstance(text, str):
            raise ArgumentError("text", text, "a str")
        backend = self.tokenizer.backend_tokenizer if parse else self._text_backend
        with self._lock:  # whether special tokens are recognised is state of the backend, not an argument
            backend.no_truncation()  # some tokenizer.json files ask for it
            backend.no_padding()
            before, backend.encode_special_tokens = backend.encode_special_tokens, not parse
            try:
                ids: list[int] = backend.encode(text, add_special_tokens=add).ids
            except (TypeError, UnicodeEncodeError) as error:
                raise ArgumentError(
                    "text", text, "characters that UTF-8 can encode", "Replace lone surrogates (U+D800 to U+DFFF)."
                ) from error
            finally:
                backend.encode_special_tokens = before
        if ids and max(ids) >= self.embedded:
            token = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise ArgumentError(
                "text", token, f"tokens with an embedding: {self.name} has {self.embedded}, this is number {max(ids)}",
                "The tokenizer got a token that the model was not resized for: model.resize_token_embeddings.",
            )  # fmt: skip
        return ids

    @cached_property
    def embedded(self) -> int:
        """Token ids that have an embedding."""
        embeddings: Any = self.model.get_input_embeddings()
        return int(embeddings.weight.shape[0])
