"""Turn a quantised GGUF checkpoint into plain safetensors in bfloat16; run by the engine environment's Python.

``convert_gguf.py SOURCE.gguf DIRECTORY``. Tokenizer and chat template come from the GGUF too. transformers reads the
GGUF; its state is copied into a freshly made model, so that nothing of the quantisation stays in the configuration.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# Its wheel cannot load beside a CPU build of torch, and nothing here needs it: transformers takes it as not installed.
sys.modules["torchvision"] = None  # type: ignore[assignment]

import torch  # noqa: E402 -- after the line above
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: E402 -- after the line above


def convert(source: Path, directory: Path) -> None:
    """Write the checkpoint of ``source`` into ``directory``."""
    where: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True, "trust_remote_code": False}
    print("step tokenizer", flush=True)  # noqa: T201 -- read by the caller as progress
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), **where)
    print("step weights", flush=True)  # noqa: T201 -- read by the caller as progress
    quantised = AutoModelForCausalLM.from_pretrained(str(source.parent), dtype=torch.bfloat16, **where)
    configuration = quantised.config
    if hasattr(configuration, "quantization_config"):
        del configuration.quantization_config
    # Where the file was on this machine is no property of the model; it would change the model's hash.
    configuration._name_or_path = ""  # noqa: SLF001 -- transformers writes it into config.json and has no other way
    print("step copy", flush=True)  # noqa: T201 -- read by the caller as progress
    plain = type(quantised)(configuration).to(torch.bfloat16)
    state = {name: value.to(torch.bfloat16) for name, value in quantised.state_dict().items()}
    missing, unexpected = plain.load_state_dict(state, strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:
        sys.exit(f"convert_gguf: weights do not fit: missing {missing}, unexpected {unexpected}")
    plain.tie_weights()
    plain.generation_config = GenerationConfig(
        eos_token_id=configuration.eos_token_id, pad_token_id=configuration.pad_token_id
    )
    # transformers takes the GGUF's first special token for its last one, and remembers how it was called.
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(configuration.eos_token_id)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(configuration.pad_token_id)
    tokenizer.model_max_length = configuration.max_position_embeddings
    tokenizer.clean_up_tokenization_spaces = False
    for name in ("eos_token_id", "pad_token_id", "is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    print("step save", flush=True)  # noqa: T201 -- read by the caller as progress
    plain.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
