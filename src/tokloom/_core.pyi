"""The C++ core (cpp/): the vocabulary's byte trie and what is matched against it.

Everything here is immutable once built, so that one object may serve many requests and threads.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tokloom.grammar.expression import Grammar

def kernels() -> str:
    """The instruction set that the matrix kernels use: "amx", "avx512", "avx2" or "portable". The best that the
    processor has, or what the environment variable TOKLOOM_KERNELS asks for."""

class PackedMatrix:
    """A matrix (outputs, inputs) packed for products with few or many rows; see models/packed_linear.py.

    Pointers are addresses of contiguous float32 on the CPU; the caller answers for their sizes.

    Args:
        weights: address of (outputs, inputs), row-major; copied.
        format: "fp32", "bf16", or "int8" or "int4" with factors for every 32 inputs, of which inputs must be a
            multiple (ValueError).
        prompt_bits: what int8 and int4 round more than 64 rows to, 8 or 24. Fewer have 24 bits, as a float.
        threads: to pack on.
    """

    def __init__(
        self, weights: int, outputs: int, inputs: int, format: str, prompt_bits: int, threads: int
    ) -> None: ...
    @staticmethod
    def from_gguf(
        blocks: int, bytes: int, type: int, outputs: int, inputs: int, prompt_bits: int, threads: int
    ) -> PackedMatrix:
        """From the blocks of a GGUF tensor of ggml's type `type`, value for value: address of (outputs, bytes of a
        row). ValueError if the type is not one of `gguf_blocks.TYPES` or `bytes` does not fit."""

    def apply(self, x: int, rows: int, out: int, threads: int) -> None:
        """out (rows, outputs) = x (rows, inputs) times the transposed matrix, on `threads` of torch's threads."""

    def unpack(self, weights: int) -> None:
        """Writes the matrix (outputs, inputs) as the kernels see it."""

    @property
    def nbytes(self) -> int:
        """Bytes of packed weights and scales."""

class KVBuffer:
    """Where one layer's keys and values lie; the tensors stay the caller's, and alive as long as this.

    keys, values: address of (places, row_bytes) as stored. key_scales, value_scales: of (places,) float32 with storage
    "int8", else 0. centres: with "int4", of (kv_heads, head_dim) float32 or 0; the mean of the keys that come first is
    written there and taken off all of them. positions: of (kv_heads, capacity) int32. bases, holes: of (kv_heads,)
    int64; slot s of a KV head lies at place base + s and exists from s = holes on. storage: "fp32", "bf16", "int8" or
    "int4".
    """

    def __init__(
        self,
        *,
        keys: int,
        values: int,
        key_scales: int,
        value_scales: int,
        centres: int,
        positions: int,
        bases: int,
        holes: int,
        kv_heads: int,
        capacity: int,
        head_dim: int,
        storage: str,
    ) -> None: ...

class Pass:
    """The rows of one forward pass: `hidden` is the address of (rows, hidden size) float32, embeddings at first and
    updated by every layer; sequences one (rows, own) for each that has rows in the pass, in order, own as of `attend`;
    positions of (rows,) int32; rotary one (cosines, sines) for each of the model's tables, each (positions, half of
    head_dim) float32. The caller keeps them alive. torch_threads: where torch's operations come between two layers, so
    that both use the same threads. tap: address of (rows, hidden size) float32 that gets what goes into the MLP of
    layer `tapped`, or 0."""

    def __init__(
        self,
        hidden: int,
        sequences: Sequence[tuple[int, int]],
        positions: int,
        rotary: Sequence[tuple[int, int]],
        threads: int,
        torch_threads: bool,
        tap: int = 0,
        tapped: int = 0,
    ) -> None: ...

class Index:
    """What a plan scores: the layer's own keys, or an index of the policy's own. The caller keeps tensors alive.

    Args:
        scale: of scores; keys: (kv_heads, *, width) of `storage`, `head_stride` entries between heads, one entry for
            each `page` slots from the first on; 0: the layer's keys. key_scales: of int8, float32 (kv_heads, *), as
            far apart.
        map: how queries become those of the index: "own", as they are; "signs", [max(q, 0), min(q, 0)]; "elements",
            those that `table`, int64 (heads, width), lists; "product" with `table`, float32 (heads, head_dim, width).
        reduce, shared: as of `score_slots`; first: of pages, the first one is always taken.
        use: bool (heads,), which query heads have a say; 0: all.
        token_pages: (tokens of a page, tokens of a batch) of pages of similar keys, whose entries `keys` has; then
            single tokens are chosen by their page's score. page_of: int64 (kv_heads, *), each token's page, and the
            numbers between heads; consecutive: the entries of pages of consecutive tokens, which count after the last
            whole batch, and how many there are between heads.
    """

    def __init__(
        self,
        *,
        scale: float,
        keys: int = 0,
        key_scales: int = 0,
        storage: str = "fp32",
        head_stride: int = 0,
        width: int = 0,
        page: int = 1,
        map: str = "own",
        table: int = 0,
        reduce: str = "mass",
        shared: bool = False,
        first: bool = False,
        use: int = 0,
        token_pages: tuple[int, int] = (0, 0),
        page_of: tuple[int, int] = (0, 0),
        consecutive: tuple[int, int] = (0, 0),
    ) -> None: ...
    @property
    def page(self) -> int: ...
    @property
    def shares(self) -> bool:
        """Its scores are shares of attention, or sums of them."""

class LayerPlan:
    """What a selecting policy does in one layer and pass; nothing yet: it attends densely.

    sink, local: how many of the first tokens and of the last ones before a row, itself included, are always attended.
    """

    def __init__(self, sink: int = 0, local: int = 1) -> None: ...
    def hold(self, tensor: object) -> None:
        """Keeps a tensor as long as the plan."""

    def route(self, means: Index, active: int) -> None:
        """From here on only the `active` query heads have a say with the largest sum of relu(q entry)."""

    def narrow(self, index: Index, budget: int, ratio: float = 0.0) -> None:
        """From here on only the best pages' slots are left: `ratio` of the pages, enough for `budget` slots and two
        pages more; ratio 0: the best `budget` slots, and all heads have a say."""

    def choose(self, index: Index, budget: int, mass: float = 0.0) -> None:
        """The best slots, or as many pages as are in the budget; mass: as of `select_slots`."""

    def choose_by_density(self, index: Index, later: float, maximum: float, left: int) -> None:
        """As many of the best pages as are a row's share of `left`, float32 (rows,), by the density of their scores
        beside the `later` ones, at most `maximum` slots; takes that off `left`."""

    def choose_clusters(
        self, centroids: Index, label: int, sizes: int, count: int, clusters: int, threshold: float
    ) -> None:
        """The slots of clusters whose score exp(q c) / sum of size exp(q c) is `threshold` in any head, and all slots
        from `count` on. label: int64 (kv_heads, count); sizes: float32 (kv_heads, clusters)."""

    def keep_while_similar(
        self, similarity: float, query: int = 0, choice: int = 0, heads: int = 1, chosen: int = 0, parents: int = 0
    ) -> None:
        """An earlier choice, int64 (heads, chosen), goes on while the cosine of queries with the one that it was made
        for, float32 (heads, head_dim), is at least this; in a tree, int32 `parents`, along its paths."""

    def reuse(self, other: LayerPlan) -> None:
        """Attends to what another layer chooses."""

    def attend_densely(self) -> None:
        """What is chosen is for others."""

    @property
    def dense(self) -> bool: ...
    @property
    def listed(self) -> int:
        """After the pass: how many slots are attended to, over the heads and rows of `shape`; the own ones left out."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """After the pass: heads, rows and slots of the choice, and how many of these are sinks and local window."""

    def copy_slots(self, out: int) -> None:
        """After the pass: the choice, int64 (heads, rows, slots), -1 for none."""

    @property
    def query_floats(self) -> int: ...
    def copy_queries(self, out: int) -> None:
        """After the pass, with `keep_while_similar`: the queries that rows' choices were made for, float32 (rows,
        heads, head_dim)."""

class Decoder:
    """The layers of a Llama-like decoder over packed matrices; see models/fused_decoder.py.

    A norm is (address of its float32 weights or 0, epsilon); biases are addresses or 0. The caller keeps them alive.
    """

    def __init__(self, hidden: int, norm: tuple[int, float], head: PackedMatrix, bias: int) -> None: ...
    def add(
        self,
        *,
        norms: Sequence[tuple[int, float]],
        matrices: list[PackedMatrix],
        biases: Sequence[int],
        heads: int,
        kv_heads: int,
        head_dim: int,
        scale: float,
        softcap: float,
        window: int,
        rotary: int,
        gelu: bool,
    ) -> None:
        """Adds a layer. norms: before attention, of queries, of keys, after attention, before the MLP, after it.
        matrices, biases: q, k, v, o, gate, up, down. softcap and window: 0 for none. rotary: which of the pass's
        tables."""

    def attention_in(self, layer: int, step: Pass, to: Sequence[tuple[KVBuffer, int]], queries: int) -> None:
        """A layer up to its attention: each sequence's keys and values to a buffer's slots, from the given one on,
        rotated queries to `queries`, (heads, rows, head_dim) float32."""

    def attention_out(self, layer: int, step: Pass, attended: int) -> None:
        """A layer from its attention on; `attended` is (rows, heads * head_dim) float32."""

    def run(
        self,
        step: Pass,
        to: Sequence[Sequence[tuple[KVBuffer, int]]],
        plans: Sequence[Sequence[LayerPlan | None]] = (),
    ) -> None:
        """All layers with the core's own attention; `to` has for each what `attention_in` takes, `plans` what each
        sequence's attention does, None for dense."""

    def logits(self, step: Pass, first: int, out: int) -> None:
        """Logits after the rows from `first` on, (rows - first, vocabulary) float32."""

def top_k(values: int, rows: int, width: int, k: int, out: int) -> None:
    """Columns of the k largest of each row of (rows, width) float32, largest first, to `out`, (rows, k) int32. The
    lower column first among equals; NaN counts as smallest. ValueError if k exceeds the width."""

def attend(
    *,
    queries: int,
    query_strides: tuple[int, int],
    keys: int,
    values: int,
    out: int,
    out_strides: tuple[int, int],
    heads: int,
    kv_heads: int,
    rows: int,
    head_dim: int,
    capacity: int,
    count: int,
    scale: float,
    storage: str,
    threads: int,
    key_scales: int = 0,
    value_scales: int = 0,
    positions: int = 0,
    row_positions: int = 0,
    own: int = 0,
    window: int = 0,
    softcap: float = 0.0,
    index: int = 0,
    chosen: int = -1,
    index_heads: int = 1,
    index_rows: int = 1,
    weights: int = 0,
    sums: int = 0,
    bases: int = 0,
    holes: int = 0,
    centres: int = 0,
    plan: LayerPlan | None = None,
) -> None:
    """Attention of few rows over the KV store of one sequence, causal by where the slots are.

    Pointers are addresses on the CPU, contiguous unless a stride is given; 0 for what is left out. The caller answers
    for their sizes. Everything is float32 unless said otherwise. Results do not depend on `threads`.

    Args:
        queries, out: (heads, rows, head_dim), their strides of head and row in floats; head_dim is contiguous.
        keys, values: (places, row_bytes) of `storage`: "fp32", "bf16", "int8" or "int4".
        bases, holes: int64 (kv_heads,). Slot s of a KV head lies at place base + s (left out: head * capacity + s) and
            exists from s = holes on (left out: 0); what does not exist is never attended to.
        count: slots in use, of which the last `rows` are the rows' own; the others are their past.
        key_scales, value_scales: (places,), of int8 only; see `quantize_slots`.
        centres: (kv_heads, head_dim), of int4, added to every key; may be left out.
        positions: int32 (kv_heads, capacity), of the slots; row_positions: int32 (rows,). Both for a window only.
        own: uint8 (rows, rows); row i sees own slot j. Left out: j <= i.
        window: if positive, a slot is visible iff its position > the row's - window.
        softcap: if positive, scores become tanh(score / softcap) * softcap.
        index: int64 (index_heads, index_rows, chosen), kv_heads or 1 and rows or 1: the slots of the past to attend to,
            each at most once, -1 for none; own slots are attended to as well. A negative `chosen`: no index, all slots.
        plan: chooses them instead; needs row_positions.
        weights: (heads, rows, count), to be filled with the probabilities; sums: (kv_heads, count), with their sums
            over rows and the heads of a group. Not together with `index`.

    Raises:
        ValueError: for arguments that contradict each other.
    """

def score_slots(
    *,
    queries: int,
    query_strides: tuple[int, int],
    heads: int,
    kv_heads: int,
    rows: int,
    width: int,
    keys: int,
    storage: str,
    head_stride: int,
    count: int,
    scale: float,
    out: int,
    threads: int,
    key_scales: int = 0,
    begin: int = 0,
    ends: int = 0,
    index: int = 0,
    chosen: int = -1,
    index_heads: int = 1,
    index_rows: int = 1,
    use: int = 0,
    reduce: str = "max",
    shared: bool = False,
    centres: int = 0,
) -> None:
    """Scores of many keys against few queries, scale * q k^T, reduced over the heads that share a result.

    Pointers as for `attend`. Results do not depend on `threads`.

    Args:
        queries: (heads, rows, width), their strides of head and row in floats.
        keys: (kv_heads, *, width) of `storage`, `head_stride` keys between KV heads; [0, count) are scored.
        key_scales: (kv_heads, *), `head_stride` apart, of int8 only. centres: (kv_heads, width), added to every key.
        begin, ends: row r may choose slots of [begin, ends[r]), int32 (rows,); others get -inf. Left out: [0, count).
        index: int64 (kv_heads or 1, rows or 1, chosen): the slots that are scored, -1 for none; chosen -1: no index.
        use: uint8 (heads, rows): which heads have a say. Left out: all.
        reduce: "max", "sum", or "mass", the sum of each head's softmax over what its row may choose; "each" for a
            result for each query head, (heads, rows, count or chosen).
        shared: one result for all KV heads, else one for each, over its group.
        out: (1 or kv_heads, rows, count or chosen).
    """

def select_slots(
    *,
    queries: int,
    query_strides: tuple[int, int],
    heads: int,
    kv_heads: int,
    rows: int,
    width: int,
    keys: int,
    storage: str,
    head_stride: int,
    count: int,
    scale: float,
    out: int,
    k: int,
    threads: int,
    key_scales: int = 0,
    begin: int = 0,
    ends: int = 0,
    index: int = 0,
    chosen: int = -1,
    index_heads: int = 1,
    index_rows: int = 1,
    use: int = 0,
    reduce: str = "max",
    shared: bool = False,
    centres: int = 0,
    counts: int = 0,
    mass: float = 0.0,
    page: int = 1,
    slot_begin: int = 0,
    slot_ends: int = 0,
    first: bool = False,
) -> None:
    """`score_slots` and the slots of the best, in one.

    Args, beside those of `score_slots`:
        k: places that a row takes; counts: int32 (rows,), at most k each, where rows differ.
        mass: of the k best, best first, the fewest that hold this share of all scores ("mass"); 0: all. Single slots
            only.
        page: consecutive slots that each place stands for. With more than one, places are the full pages before a row's
            end: row r may choose slots of [slot_begin, slot_ends[r]), int32 (rows,); the page that its end cuts is
            always taken, and the one of slot_begin if `first`.
        out: int64 (1 or kv_heads, rows, k * page), -1 for none.
    """

def choose_slots(*, scores: int, rows: int, width: int, k: int, out: int, threads: int) -> None:
    """The places of the k largest of each row of scores (rows, width), ascending, the first among equals.

    out: int64 (rows, k); -1 at the end where fewer are above -inf.
    """

def quantize_slots(
    *,
    x: int,
    kv_heads: int,
    rows: int,
    head_dim: int,
    to: int,
    head_stride: int,
    scales: int,
    scale_stride: int,
) -> None:
    """int8 storage: x (kv_heads, rows, head_dim) float32 to levels -127 to 127 with one scale per row, which times the
    level is the nearest to x. Strides in elements, between heads. A row with NaN or infinity becomes NaN."""

def quantize_groups(*, x: int, kv_heads: int, rows: int, head_dim: int, to: int, head_stride: int) -> None:
    """int4 storage: x (kv_heads, rows, head_dim) float32 to (kv_heads, rows, row_bytes) uint8, strides in bytes between
    heads. Groups of 32 elements, the last one filled up, 20 bytes each: a word of two bf16, scale above zero, then the
    levels, two a byte, the lower half first; an element is zero + scale * level. A group with NaN or infinity becomes
    NaN."""

def row_bytes(storage: str, head_dim: int) -> int:
    """Bytes of one slot's keys or values of a KV head."""

def round_slots(*, x: int, kv_heads: int, rows: int, head_dim: int, to: int, head_stride: int) -> None:
    """bf16 storage: x (kv_heads, rows, head_dim) float32 to the nearest bfloat16, ties to even."""

class TokenTrie:
    """The tokens of a vocabulary as a trie of bytes, a flat preorder array with subtree sizes.

    Args:
        tokens: the bytes of each token id. A token without bytes (special, unused) is not in the
            trie; several ids may have equal bytes. Raises TypeError for what is not bytes.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None: ...
    @property
    def size(self) -> int:
        """Length of `tokens`: the ids are [0, size)."""

    @property
    def nodes(self) -> int:
        """Nodes of the trie, the root included."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token was given with. Raises IndexError outside [0, size)."""

    def tokens_with_prefix(self, prefix: bytes) -> list[int]:
        """Ids whose bytes start with `prefix`, sorted by their bytes, then by id."""

    def prefixes_of(self, text: bytes) -> list[int]:
        """Ids whose bytes are a prefix of `text`, shortest first, then by id."""

class ChoiceSet:
    """Strings of which an output must be one, in any tokenization that spells it.

    A state is a node of the choices' own byte trie, an int in [0, states): the bytes so far. All
    methods that take one raise IndexError outside this range. A token may come next only if the
    vocabulary can spell the rest of some choice after it, so that no state is a dead end.

    Args:
        trie: the vocabulary; the set keeps it alive.
        choices: at least one; raises ValueError for none or an empty one, TypeError for what is
            not bytes.
    """

    start: ClassVar[int]
    """The state of the empty output."""

    def __init__(self, trie: TokenTrie, choices: Sequence[bytes]) -> None: ...
    @property
    def states(self) -> int:
        """Number of states."""

    @property
    def unspellable(self) -> list[int]:
        """Indices of the choices that no sequence of tokens spells."""

    def mask(self, state: int, out: NDArray[np.int32]) -> None:
        """Writes the bitmask of the tokens that may come next.

        Args:
            state: where the output is.
            out: int32, contiguous and writable, (ceil(trie.size / 32),); bit i % 32 of word i // 32
                is token i. Raises TypeError for another dtype or layout, ValueError for another length.
        """

    def step(self, state: int, token: int) -> int:
        """The state after `token`; -1 if it may not come next."""

    def complete(self, state: int) -> bool:
        """The bytes so far are one of the choices."""

    def final(self, state: int) -> bool:
        """The bytes so far are one of the choices, and no token may come next."""

    def forced(self, state: int) -> list[int]:
        """Tokens of which each is the only one that may come next, up to a complete output."""

class GrammarForm:
    """A grammar, flat and canonical: what tokloom/grammar/expression.py describes, one node an expression."""

    @property
    def has_special(self) -> bool:
        """Some part of it is a special token."""

    @staticmethod
    def read(grammar: Grammar) -> GrammarForm:
        """Raises GrammarError if the grammar is not well-formed."""

    @staticmethod
    def decode(data: bytes) -> GrammarForm:
        """What `encode` gave. Raises GrammarError if the data is damaged."""

    def encode(self) -> bytes:
        """Equal for equal grammars."""

class MaskCachePool:
    """Automata and masks that the grammars of one vocabulary share.

    Args:
        trie: the vocabulary; the pool keeps it alive.
        limit: bytes after which they are begun anew. Matchers that still use the old ones keep them alive.
    """

    def __init__(self, trie: TokenTrie, limit: int) -> None: ...
    @property
    def writes_all(self) -> bool:
        """Every byte that occurs in tokens is a token."""

    @property
    def nbytes(self) -> int:
        """Bytes in use."""

class GrammarProgram:
    """A compiled grammar. Threads may share it.

    Args:
        pool: of the vocabulary; the program keeps it alive.
        specials: ids of special tokens, by their text.
        ends: tokens that may come where the output is complete. Raises ValueError for ids outside the vocabulary.
        limit: bytes of states after which places are `stale`; four times as many raise GrammarError.

    Raises GrammarError if no string of the grammar can be written.
    """

    def __init__(
        self, pool: MaskCachePool, form: GrammarForm, specials: Mapping[str, int], ends: Sequence[int], limit: int
    ) -> None: ...
    def start(self) -> GrammarState:
        """The place of an empty output. The program must outlive its places."""

    @property
    def nbytes(self) -> int:
        """Bytes of states so far."""

class GrammarState:
    """Where an output is in a grammar; a value. Methods may raise GrammarError where a limit is reached."""

    def mask(self, out: NDArray[np.int32]) -> None:
        """Writes the bitmask of the tokens that may come next, as ChoiceSet.mask does."""

    def step(self, token: int) -> GrammarState | None:
        """The state after a token; None if it may not come next."""

    def step_bytes(self, data: bytes) -> GrammarState | None:
        """The state after bytes; None if they may not come next."""

    def forced(self, maximum: int) -> bytes:
        """The bytes that must come next, at most so many."""

    @property
    def ended(self) -> bool:
        """An end-of-sequence token came."""

    @property
    def complete(self) -> bool:
        """The output may end here, or has."""

    @property
    def stuck(self) -> bool:
        """No token may come next, and the output is not complete."""

    @property
    def stale(self) -> bool:
        """The states that this state is one of take more memory than they should: begin again from `start`."""

def grammar_masks(states: Sequence[GrammarState], out: NDArray[np.int32], threads: int) -> None:
    """Each state's mask, int32 (states, words), on several threads, without Python's lock."""

def forbid(logits: int, type: str, tokens: int, stride: int, masks: NDArray[np.int32]) -> None:
    """Sets logits to minus infinity where the mask of their row has not the token's bit.

    Args:
        logits: address of (masks.shape[0], tokens) on the CPU; the caller answers for its size.
        type: "fp32", "bf16" or "fp16"; ValueError for another.
        stride: values from one row to the next.
        masks: int32 (rows, words); ValueError for fewer bits than tokens.
    """
