"""Decoding speed beside transformers and llama.cpp, and prompt memory beside transformers, in one run.

    .venv/bin/python benchmarks/decoding.py                    on repetitive texts and a book
    .venv/bin/python benchmarks/decoding.py --spec-bench FILE  on the questions of Spec-Bench, by category
    .venv/bin/python benchmarks/decoding.py --llama OTHER_VENV/bin/python     with llama-cpp-python from another venv
    .venv/bin/python benchmarks/decoding.py --schemas FILE     under JSON schemas (JSONSchemaBench's maskbench.jsonl)
    .venv/bin/python benchmarks/decoding.py --memory           peak memory of an 8k prompt

Same model, greedy, batch 1, the same number of threads, the same prompts. Methods take turns on every text, in an order
that rotates. A figure is the time between tokens: all tokens of a category, the first of each text left out, over all
seconds. What a drafter learns from one text it may use on the next, never on the same text again: every round begins
with new engines. transformers' assistant is the same model in bfloat16, as there is no smaller one of its vocabulary.
Outputs are compared: tokloom's must be transformers', token for token; llama.cpp's differ, as it rounds differently.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from forward import gguf  # beside this file

import tokloom
from tokloom import Engine, Sampling, registry
from tokloom.decode.stage import Constraint, Matcher
from tokloom.errors import TokloomError
from tokloom.evaluate.spec_bench import read
from tokloom.models.vocabulary import Vocabulary

BOOK = Path(__file__).parent.parent / "examples" / "alice_in_wonderland.txt"
REPETITIVE = [
    "Copy the table below exactly.\n"
    + "\n".join(f"row {i}: name=item{i}; price={i * 3}.00; stock=yes" for i in range(12))
    + "\nCopy:\nrow 0: name=item0; price=0.00; stock=yes\n",
    "".join(f"2024-05-01 10:00:{i:02d} INFO worker-{i % 3}: request served in 12 ms, status 200\n" for i in range(12)),
    "def test_add():\n    assert add(1, 2) == 3\n\ndef test_sub():\n    assert sub(1, 2) == -1\n\n" * 3
    + "def test_mul():\n",
]  # fmt: skip
DRAFTERS = ("prompt_lookup", "suffix_automaton", "token_recycling", "dyspec", "aded", "merged")
Answer = tuple[list[int], float, int]
"""Tokens, seconds after the first of them, passes (0 if unknown)."""
Method = Callable[[list[int], int], Answer]


def transformers_method(model: tokloom.LanguageModel, **options: Any) -> Method:
    def answer(tokens: list[int], count: int) -> Answer:
        ids = torch.tensor([tokens])

        def run(new: int) -> tuple[list[int], float]:
            start = time.perf_counter()
            output = model.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False,
                eos_token_id=sorted(model.eos_ids), pad_token_id=min(model.eos_ids), **options,
            )  # fmt: skip
            return output[0, len(tokens) :].tolist(), time.perf_counter() - start

        _, first = run(1)
        output, whole = run(count)
        return output, whole - first, 0

    return answer


def tokloom_method(engine: Engine, constraint: Constraint | None = None) -> Method:
    def answer(tokens: list[int], count: int) -> Answer:
        result = engine.generate(
            engine.model.tokenizer.decode(tokens), sampling=Sampling(max_new_tokens=count), constraint=constraint
        )
        row = result.ledger.row("decode")
        return list(result.tokens), row.seconds, row.forward_passes

    return answer


LLAMA = """
import json, sys, time
import llama_cpp
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
path, threads, drafted = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
draft = LlamaPromptLookupDecoding(num_pred_tokens=drafted) if drafted else None
llm = llama_cpp.Llama(path, n_ctx=4096, n_threads=threads, n_threads_batch=threads, verbose=False, draft_model=draft,
                      logits_all=draft is not None)
eos = llm.token_eos()
for line in sys.stdin:
    asked = json.loads(line)
    llm.reset()
    out, start = [], 0.0
    for token in llm.generate(asked["tokens"], temp=0, repeat_penalty=1.0, top_k=1):
        if not out:
            start = time.perf_counter()
        out.append(token)
        if token == eos or len(out) == asked["count"]:
            break
    print(json.dumps([out, time.perf_counter() - start, 0]), flush=True)
"""


def llama_method(python: str, file: Path, drafted: int) -> Method:
    command = [python, "-c", LLAMA, str(file), str(torch.get_num_threads()), str(drafted)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def answer(tokens: list[int], count: int) -> Answer:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps({"tokens": tokens, "count": count}) + "\n")
        child.stdin.flush()
        output, seconds, passes = json.loads(child.stdout.readline())
        return output, seconds, passes

    return answer


@dataclass
class Sum:
    """What one method took for the texts of one kind."""

    tokens: int = 0
    seconds: float = 0.0
    passes: int = 0
    different: int = 0

    def add(self, answer: Answer, expected: list[int]) -> None:
        output, seconds, passes = answer
        self.tokens += len(output) - 1
        self.seconds += seconds
        self.passes += passes
        self.different += output != expected

    @property
    def speed(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)


@dataclass
class Bench:
    """Texts by kind, and methods that answer them."""

    prompts: dict[str, list[list[int]]]
    count: int
    sums: dict[tuple[str, str], Sum] = field(default_factory=lambda: defaultdict(Sum))

    def round(self, methods: dict[str, Method], reference: str) -> None:
        """Every text once through every method; `reference` says what is right."""
        for answer in methods.values():  # caches, the processor, compiled parts
            answer(next(iter(self.prompts.values()))[0][:12], 4)
        turn = itertools.count()
        for kind, texts in self.prompts.items():
            for text in texts:
                names = list(methods)
                first = next(turn) % len(names)
                found = {name: methods[name](text, self.count) for name in names[first:] + names[:first]}
                expected = found[reference][0]
                if len(expected) < 8:
                    continue
                for name, answer in found.items():
                    self.sums[kind, name].add(answer, expected)

    def rows(self, names: list[str], base: str, plain: str) -> list[dict[str, Any]]:
        rows = []
        for kind in [*self.prompts, "all"]:
            for name in names:
                found = self.sums[kind, name] if kind != "all" else self._whole(name)
                others = {w: self.sums[kind, w] if kind != "all" else self._whole(w) for w in (base, plain)}
                rows.append({
                    "kind": kind, "method": name, "tokens/s": found.speed,
                    **{f"x {other}": found.speed / whole.speed for other, whole in others.items()},
                    "tokens/pass": found.tokens / found.passes if found.passes else None, "different": found.different,
                })  # fmt: skip
        return rows

    def _whole(self, name: str) -> Sum:
        whole = Sum()
        for kind in self.prompts:
            part = self.sums[kind, name]
            whole.tokens, whole.seconds = whole.tokens + part.tokens, whole.seconds + part.seconds
            whole.passes, whole.different = whole.passes + part.passes, whole.different + part.different
        return whole


def show(rows: list[dict[str, Any]]) -> None:
    keys = [key for key in rows[0] if key not in ("kind", "method")]
    print(f"\n{'texts':<16}{'method':<36}" + "".join(f"{key:>20}" for key in keys))
    before = None
    for row in rows:
        cells = ["" if row[key] is None else f"{row[key]:.2f}" if isinstance(row[key], float) else str(row[key])
                 for key in keys]  # fmt: skip
        print(
            f"{row['kind'] if row['kind'] != before else '':<16}{row['method']:<36}"
            + "".join(f"{c:>20}" for c in cells)
        )
        before = row["kind"]


def compare(args: argparse.Namespace, prompts: dict[str, list[list[int]]]) -> list[dict[str, Any]]:
    model = tokloom.load(args.model, weights=args.weights)
    reference = tokloom.load(args.model, weights="torch")
    reference.model.set_attn_implementation("sdpa")
    fixed: dict[str, Method] = {"transformers generate": transformers_method(reference)}
    if not args.only:
        coarse = tokloom.load(args.model, weights="torch", dtype="bfloat16")
        coarse.model.set_attn_implementation("sdpa")
        fixed["transformers prompt lookup"] = transformers_method(reference, prompt_lookup_num_tokens=10)
        fixed["transformers assisted"] = transformers_method(reference, assistant_model=coarse.model)
    bench = Bench(prompts, args.tokens)
    with tempfile.TemporaryDirectory() as directory:
        file = gguf(args.model, Path(directory))
        if args.llama and file is not None:
            fixed["llama.cpp"] = llama_method(args.llama, file, 0)
            fixed["llama.cpp prompt lookup"] = llama_method(args.llama, file, 10)
        methods: dict[str, Method] = {}
        for _ in range(args.rounds):
            engines = {"plain": Engine(model), **{spec: Engine(model, drafter=spec) for spec in args.drafters}}
            methods = {**fixed, **{f"tokloom {name}": tokloom_method(engine) for name, engine in engines.items()}}
            bench.round(methods, "transformers generate")
    return bench.rows(list(methods), "transformers generate", "tokloom plain")


class Unforced(Constraint):
    """A constraint whose certain tokens are not told, so that each costs a pass."""

    name = "unforced"

    def __init__(self, rule: Constraint) -> None:
        self.rule = rule

    def start(self, vocabulary: Vocabulary) -> Matcher:
        matcher = self.rule.start(vocabulary)
        matcher.forced = list  # type: ignore[method-assign]
        return matcher


def under_schemas(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Plain decoding under a schema, with its certain tokens as drafts, and with each drafter beside them."""
    model = tokloom.load(args.model, weights=args.weights)
    cases: list[tuple[list[int], Constraint]] = []
    for line in args.schemas.read_text(encoding="utf-8").splitlines():
        schema = json.loads(line)["schema"]
        if len(cases) == args.per_category:
            break
        text = json.dumps(schema)
        question = f"Write a JSON object that is valid by this JSON Schema:\n{text}"
        tokens = model.chat_tokens([{"role": "user", "content": question}])
        try:
            rule = registry.build(f"json_schema:schema={text}", Constraint, "constraint")
            rule.start(model.vocabulary)
        except TokloomError:
            continue
        if len(tokens) < 1000:
            cases.append((tokens, rule))
    sums: dict[str, Sum] = defaultdict(Sum)
    for _ in range(args.rounds):
        engines = {spec: Engine(model, drafter=spec) for spec in args.drafters}
        plain = Engine(model)
        for turn, (tokens, rule) in enumerate(cases):
            methods = {
                "no drafts": tokloom_method(plain, Unforced(rule)),
                "certain tokens": tokloom_method(plain, rule),
                **{f"certain tokens, {spec}": tokloom_method(engine, rule) for spec, engine in engines.items()},
            }
            names = list(methods)
            first = turn % len(names)
            found = {name: methods[name](tokens, args.tokens) for name in names[first:] + names[:first]}
            for name, answer in found.items():
                sums[name].add(answer, found["no drafts"][0])
    bench = Bench({"schemas": []}, args.tokens)
    bench.sums.update({("schemas", name): found for name, found in sums.items()})
    return [row for row in bench.rows(list(sums), "no drafts", "certain tokens") if row["kind"] != "all"]


def peak_memory(which: str, length: int) -> None:
    """Child process: prints the growth of the peak resident size while an 8k prompt is read."""
    model = tokloom.load()
    text = BOOK.read_text(encoding="utf-8")
    tokens = model.encode(text)[:length]
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        if which == "transformers":
            model.model.set_attn_implementation("sdpa")
            model.model(input_ids=torch.tensor([tokens]), use_cache=True, logits_to_keep=1)
        else:
            from tokloom.engine.forward import new_store, prefill

            store = new_store(model, Engine(model, attention=which).attention, 0)
            for _ in prefill(model, store, tokens, 512):
                pass
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--length", type=int, default=8000)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--spec-bench", type=Path, help="Spec-Bench's question.jsonl")
    parser.add_argument("--schemas", type=Path, help="JSON lines with a schema each")
    parser.add_argument("--per-category", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--weights")
    parser.add_argument("--drafters", nargs="*", default=DRAFTERS, help="specs")
    parser.add_argument("--llama", help="a Python with llama-cpp-python")
    parser.add_argument("--only", action="store_true", help="of transformers, plain generate only")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args = parser.parse_args()
    if args.child:
        peak_memory(args.child, args.length)
        return
    if args.memory:
        print(f"growth of the peak resident size while {args.length} prompt tokens are read (MiB)")
        for which in ("transformers", "dense", "h2o:budget=512", "token_select:budget=512"):
            command = [sys.executable, __file__, "--child", which, "--length", str(args.length)]
            print(
                f"  {which:<28}{subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip():>8}"
            )
        return
    model = tokloom.load(args.model, weights=args.weights)
    print(f"{model.name}, weights {model.weights}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    rows = under_schemas(args) if args.schemas else compare(args, prompts_of(args, model))
    show(rows)
    if args.json:
        args.json.write_text(json.dumps({"model": model.name, "weights": model.weights, "rows": rows}, indent=1))


def prompts_of(args: argparse.Namespace, model: tokloom.LanguageModel) -> dict[str, list[list[int]]]:
    """Prompts in tokens, by kind."""
    if not args.spec_bench:
        book = model.encode(BOOK.read_text(encoding="utf-8"))
        return {"context 512": [book[5000:5512]], "repetitive": [model.encode(text) for text in REPETITIVE]}
    prompts: dict[str, list[list[int]]] = defaultdict(list)
    for _, category, question in read(args.spec_bench):
        tokens = model.chat_tokens([{"role": "user", "content": question}])
        if len(prompts[category]) < args.per_category and len(tokens) < 1500:
            prompts[category].append(tokens)
    return prompts


if __name__ == "__main__":
    main()
