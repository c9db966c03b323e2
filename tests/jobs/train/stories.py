"""The pretrained stories260K (260,032 parameters, vocabulary 512) as a Hugging Face folder.

llama2.c's legacy format: a header of 7 int32, then float32 matrices; its tokenizer is scored
SentencePiece BPE. Queries and keys are permuted, since llama2.c rotates neighbouring features and
transformers rotates halves.
"""

import struct
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

STORIES = Path(__file__).parents[4] / "shared" / "data" / "stories260K"


def write_stories(folder: Path, source: Path = STORIES) -> Path:
    """Write model and tokenizer to `folder`, which is returned."""
    model = read_model(source / "stories260K.bin")
    tokenizer = read_tokenizer(source / "tok512.bin")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def read_model(path: Path) -> LlamaForCausalLM:
    """The model, its classifier tied to the embedding."""
    raw = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocabulary, context = struct.unpack("7i", raw[:28])
    numbers = torch.from_numpy(np.frombuffer(raw, np.float32, offset=28).copy())
    place = 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal place
        count = int(np.prod(shape))
        place += count
        return numbers[place - count : place].view(*shape)

    size = dim // heads

    def halves(weights: torch.Tensor, count: int) -> torch.Tensor:
        return weights.view(count, size // 2, 2, dim).transpose(1, 2).reshape(count * size, dim)

    state = {"model.embed_tokens.weight": take(vocabulary, dim)}
    names = [
        ("input_layernorm", (dim,)),
        ("self_attn.q_proj", (dim, dim)),
        ("self_attn.k_proj", (kv_heads * size, dim)),
        ("self_attn.v_proj", (kv_heads * size, dim)),
        ("self_attn.o_proj", (dim, dim)),
        ("post_attention_layernorm", (dim,)),
        ("mlp.gate_proj", (hidden, dim)),
        ("mlp.down_proj", (dim, hidden)),
        ("mlp.up_proj", (hidden, dim)),
    ]
    for name, shape in names:
        for layer in range(layers):
            weights = take(*shape)
            if name.endswith(("q_proj", "k_proj")):
                weights = halves(weights, heads if "q_" in name else kv_heads)
            state[f"model.layers.{layer}.{name}.weight"] = weights
    state["model.norm.weight"] = take(dim)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=dim,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=context,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model


def read_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer; merges are the ways to build a piece of two others, best score first."""
    raw, place, pieces = path.read_bytes(), 4, []
    while place < len(raw):
        score, length = struct.unpack_from("fi", raw, place)
        text = raw[place + 8 : place + 8 + length].decode("utf-8", "replace")
        pieces.append((text, score))
        place += 8 + length
    texts = ["<unk>", "<s>", "</s>", *(text for text, _ in pieces[3:])]
    vocabulary = {text: number for number, text in enumerate(texts)}
    merges = []
    for number in range(3, len(texts)):
        text = texts[number]
        if not text.startswith("<0x"):
            for cut in range(1, len(text)):
                left, right = text[:cut], text[cut:]
                if left in vocabulary and right in vocabulary:
                    merges.append((-pieces[number][1], vocabulary[left], left, right))
    tokenizer = Tokenizer(
        BPE(
            vocabulary,
            [(left, right) for _, _, left, right in sorted(merges)],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in texts[:3]])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
