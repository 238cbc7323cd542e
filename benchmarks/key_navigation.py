"""Right answers to closed questions: the first tokens of one ranking, completed, beside in-context navigation.

    .venv/bin/python benchmarks/key_navigation.py [--model NAME] [--answers 8]

Also how much probability the explored first tokens have, before they stand in the context and after.
"""

from __future__ import annotations

import argparse
import re

import tokloom
from tokloom.engine.request_context import RequestContext
from tokloom.methods.attention.dense import Dense
from tokloom.methods.decode.key_navigation import KeyNavigation

QUESTIONS = {
    "The months of the year": "january february march april may june july august september october "
    "november december",
    "The days of the week": "monday tuesday wednesday thursday friday saturday sunday",
    "The planets of the solar system": "mercury venus earth mars jupiter saturn uranus neptune",
    "Some colors": "red orange yellow green blue indigo violet purple pink black white gray grey brown",
    "Some fruits": "apple banana orange pear grape grapes mango strawberry strawberries "
    "blueberry blueberries peach plum cherry cherries kiwi lemon lime melon watermelon pineapple raspberry apples "
    "bananas oranges",
    "The continents": "africa asia europe australia antarctica north america south america",
    "Some animals": "dog cat horse cow pig sheep lion tiger bear elephant monkey giraffe zebra rabbit "
    "mouse rat bird fish snake frog dogs cats wolf fox deer goat chicken duck kangaroo panda",
    "The seasons of the year": "spring summer autumn fall winter",
}  # fmt: skip

FORMS = {"list": "{}:\n", "quoted": "Please list: {}.\n\nAnswer:\n"}
FRAMES = {"list": ("{number}.", "\n"), "quoted": ('{number}. "', '"\n')}
"""How the list begins; the authors', for instructed models of 8B, is quoted."""


def named(text: str, right: set[str]) -> str:
    """The first right answer among the words of a text, empty if there is none."""
    return next((word for word in re.findall("[a-z]+", text.lower()) if word in right), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--answers", type=int, default=8)
    parser.add_argument("--form", choices=list(FORMS), default="list")
    args = parser.parse_args()
    model = tokloom.load(args.model)
    sampling = tokloom.Sampling(max_new_tokens=8, stop=('"', "\n"))

    def first_logits(text: str):  # type: ignore[no-untyped-def]
        tokens = model.encode(text)
        host = RequestContext(model, Dense(), 0, kv=None, prefill_chunk=512)
        return host.prefill(host.open(len(tokens)), tokens).logits[0]

    before, after = FRAMES[args.form]
    totals = {"one ranking": 0, "navigation": 0}
    for question, answers in QUESTIONS.items():
        prompt, right = FORMS[args.form].format(question), set(answers.split())
        ranking = first_logits(prompt + KeyNavigation(before=before, after=after).listed())
        down: list[str] = []
        for token in ranking.topk(args.answers).indices.tolist():
            begun = model.decode([token])
            down.append(
                begun + tokloom.Engine(model).generate(prompt + before.format(number=1) + begun, sampling=sampling).text
            )
        found: list[str] = []
        for _ in range(args.answers):
            engine = tokloom.Engine(model, predictor=KeyNavigation(explored=tuple(found), before=before, after=after))
            found.append(engine.generate(prompt, sampling=sampling).text)
        firsts = [model.encode(text)[0] for text in found if text]
        navigated = first_logits(prompt + KeyNavigation(explored=tuple(found), before=before, after=after).listed())
        mass = [float(logits.softmax(-1)[firsts].sum()) for logits in (ranking, navigated)]
        print(f"\n{question}  explored tokens' probability {mass[0]:.2f} -> {mass[1]:.2f}")
        for name, texts in (("one ranking", down), ("navigation", found)):
            hits = {named(text, right) for text in texts} - {""}
            totals[name] += len(hits)
            print(f"  {name:12} {len(hits)} right: {texts}", flush=True)
    print(totals)


if __name__ == "__main__":
    main()
