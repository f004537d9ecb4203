"""Make the tiny chat model; run by the engine environment's Python: ``make_tiny.py DIRECTORY``.

A Qwen3 with random weights from a fixed seed and a byte-level BPE vocabulary trained on the text below: half a
megabyte, made in seconds, the same bytes each time. It answers any chat with gibberish, which is all
that a test of everything around a model needs.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

# Its wheel cannot load beside a CPU build of torch, and nothing here needs it: transformers takes it as not installed.
sys.modules["torchvision"] = None  # type: ignore[assignment]

import torch  # noqa: E402 -- after the line above
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402 -- after the line above
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM  # noqa: E402 -- after the line above

VOCABULARY = 2048
HIDDEN = 64
SEED = 20261122
POSITIONS = 8192
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string %}{{- message['content'] }}"
    "{%- else %}{%- for part in message['content'] or [] %}"
    "{%- if part['type'] == 'text' %}{{- part['text'] }}{%- endif %}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
TEXT = """
a about above after again all also always an and another answer any are as ask at back be because been before begin
below between both but by came can change child city close cold come could country day did different do does door down
each early earth easy eat end enough even every example eye face fact far fast few find first follow food for form four
from gave get give go good great grow had hand hard has have he head hear help her here high him his home house how
idea if important in into is it its just keep kind know large last late learn leave left letter life light like line
list listen little live long look made make man many may me mean measure might mile moment money more morning most
mountain move much must my name near need never new next night no not now number of off often old on once one only open
or order other our out over own page paper part people place plant play point question quick quiet read really right
river road room round run said same saw say school sea second see seem sentence set she should show side sleep small so
some something song soon sound start state still stop story such sun sure take talk tell than that the their them then
there these they thing think this those thought three through time to today together too tree true try turn two under
until up us use very voice walk want was watch water way we week well went were what when where which while white who
whole why will wind window winter with without woman word work world would write year yes yet you young your
"""


def corpus() -> list[str]:
    """Sentences of the words above in an order that the seed fixes."""
    dice = random.Random(SEED)  # noqa: S311 -- a fixed text is the point
    known = TEXT.split()
    sentences = []
    for _ in range(4000):
        words = [dice.choice(known) for _ in range(dice.randint(4, 14))]
        sentences.append(f"{' '.join(words).capitalize()}{dice.choice('.?!')} ")
    return sentences


def make(directory: Path) -> None:
    """Write tokenizer, configuration and weights into ``directory``."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=sorted(alphabet), show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",  # noqa: S106 -- a token of text, no password
        pad_token="<|endoftext|>",  # noqa: S106 -- a token of text, no password
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(SEED)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=4 * HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=HIDDEN // 2,
            max_position_embeddings=POSITIONS,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
    ).to(torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
