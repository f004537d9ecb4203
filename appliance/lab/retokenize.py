"""Count tokens of texts with the model's own tokenizer, independently of the engine. Runs in the engine's environment.

Standard input: ``{"model": directory, "conversations": [{"messages": […], "answer": text, "ended": bool}]}``; standard
output: ``[{"prompt": n, "completion": n}]``. ``ended`` says that the model ended the answer itself: the engine counts
that closing token too.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Read, count, write."""
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - only the engine's environment has it

    task = json.load(sys.stdin)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(task["model"])
    counts = []
    for item in task["conversations"]:
        prompt = tokenizer.apply_chat_template(item["messages"], add_generation_prompt=True, tokenize=False)
        counts.append(
            {
                "prompt": len(tokenizer.encode(prompt, add_special_tokens=False)),
                "completion": len(tokenizer.encode(item["answer"], add_special_tokens=False)) + bool(item["ended"]),
            }
        )
    json.dump(counts, sys.stdout)


if __name__ == "__main__":
    main()
