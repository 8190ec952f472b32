#!/usr/bin/env python3
"""Write a Llama- or gpt-oss-shaped GGUF with random weights and a real tokenizer.

Speed does not depend on the values of the weights, so such a model stands for a large one of the
same shapes; llama-quantize --pure turns the file into any type. The weights are normal with variance
1/inputs, so every layer keeps the size of its input and nothing overflows in f16. gpt-oss has attention
sinks, biases, heads wider than embd / heads, and a window in every second layer.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from tqdm import tqdm

DTYPES = {"f16": np.float16, "f32": np.float32}


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("output", type=Path, help="GGUF file to write")
    p.add_argument("--arch", choices=("llama", "gpt-oss"), default="llama")
    p.add_argument("--vocab-from", type=Path, required=True, help="GGUF file whose tokenizer is copied")
    p.add_argument("--layers", type=int, default=8)
    p.add_argument("--embd", type=int, default=2048, help="width of the residual stream")
    p.add_argument("--ff", type=int, default=5632, help="width of the feed-forward (of one expert)")
    p.add_argument("--heads", type=int, default=32)
    p.add_argument("--head-dim", type=int, help="gpt-oss: width of a head; default: --embd / --heads")
    p.add_argument("--window", type=int, default=128, help="gpt-oss: tokens that every second layer sees")
    p.add_argument("--kv-heads", type=int, help="grouped-query attention; default: --heads")
    p.add_argument("--experts", type=int, default=0, help="mixture of experts: how many there are")
    p.add_argument("--experts-used", type=int, default=2, help="mixture of experts: how many a token takes")
    p.add_argument("--context", type=int, default=4096, help="context length written to the file")
    p.add_argument("--untied", action="store_true", help="an output matrix of its own, not token_embd again")
    p.add_argument("--dtype", choices=DTYPES, default="f16")
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    args.kv_heads = args.kv_heads or args.heads
    if args.arch == "gpt-oss":
        args.untied = True
        if not args.experts:
            p.error("gpt-oss has experts: name --experts")
    elif args.head_dim:
        p.error("--head-dim is for gpt-oss")
    args.head_dim = args.head_dim or args.embd // args.heads
    if (args.arch == "llama" and args.embd % args.heads) or args.heads % args.kv_heads:
        p.error("--embd must be a multiple of --heads, and --heads of --kv-heads")
    if args.experts and not 0 < args.experts_used <= args.experts:
        p.error("--experts-used must be between 1 and --experts")
    return args


def tensors(args: argparse.Namespace, n_vocab: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor, rows first; norms, biases and sinks stay f32."""
    embd, ff, oss = args.embd, args.ff, args.arch == "gpt-oss"
    q, kv = args.head_dim * args.heads, args.head_dim * args.kv_heads
    yield "token_embd.weight", (n_vocab, embd)
    yield "output_norm.weight", (embd,)
    if args.untied:
        yield "output.weight", (n_vocab, embd)
    for i in range(args.layers):
        blk = f"blk.{i}"
        yield f"{blk}.attn_norm.weight", (embd,)
        yield f"{blk}.attn_q.weight", (q, embd)
        yield f"{blk}.attn_k.weight", (kv, embd)
        yield f"{blk}.attn_v.weight", (kv, embd)
        yield f"{blk}.attn_output.weight", (embd, q)
        yield f"{blk}.{'post_attention_norm' if oss else 'ffn_norm'}.weight", (embd,)
        if oss:
            yield f"{blk}.attn_sinks.weight", (args.heads,)
            for name, size in ("q", q), ("k", kv), ("v", kv), ("output", embd):
                yield f"{blk}.attn_{name}.bias", (size,)
            yield f"{blk}.ffn_gate_inp.bias", (args.experts,)
            for name, size in ("gate", ff), ("up", ff), ("down", embd):
                yield f"{blk}.ffn_{name}_exps.bias", (args.experts, size)
        if args.experts:
            yield f"{blk}.ffn_gate_inp.weight", (args.experts, embd)
            yield f"{blk}.ffn_gate_exps.weight", (args.experts, ff, embd)
            yield f"{blk}.ffn_up_exps.weight", (args.experts, ff, embd)
            yield f"{blk}.ffn_down_exps.weight", (args.experts, embd, ff)
        else:
            yield f"{blk}.ffn_gate.weight", (ff, embd)
            yield f"{blk}.ffn_up.weight", (ff, embd)
            yield f"{blk}.ffn_down.weight", (embd, ff)


def copy_tokenizer(writer: GGUFWriter, vocab: GGUFReader) -> int:
    """Copy every tokenizer.* key; returns the number of tokens."""
    for field in vocab.fields.values():
        if not field.name.startswith("tokenizer."):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    return len(vocab.fields["tokenizer.ggml.tokens"].data)


def main() -> None:
    args = parse_args()
    part = args.output.with_name(args.output.name + ".part")
    writer = GGUFWriter(part, args.arch)
    n_vocab = copy_tokenizer(writer, GGUFReader(args.vocab_from))

    writer.add_name(f"synthetic {args.layers}x{args.embd}" + (f" moe {args.experts}" if args.experts else ""))
    writer.add_vocab_size(n_vocab)
    writer.add_context_length(args.context)
    writer.add_embedding_length(args.embd)
    writer.add_block_count(args.layers)
    writer.add_feed_forward_length(args.ff)
    writer.add_head_count(args.heads)
    writer.add_head_count_kv(args.kv_heads)
    writer.add_rope_dimension_count(args.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    if args.experts:
        writer.add_expert_count(args.experts)
        writer.add_expert_used_count(args.experts_used)
    if args.arch == "gpt-oss":
        writer.add_key_length(args.head_dim)
        writer.add_value_length(args.head_dim)
        writer.add_sliding_window(args.window)
        writer.add_expert_feed_forward_length(args.ff)

    # The header first, then one tensor at a time: memory stays at one tensor's size.
    def dtype_of(name: str, shape: tuple[int, ...]) -> type:
        # llama.cpp wants norms, biases and expert routers in f32.
        plain = len(shape) == 1 or name.endswith(".bias") or "ffn_gate_inp" in name
        return np.float32 if plain else DTYPES[args.dtype]

    plan = list(tensors(args, n_vocab))
    for name, shape in plan:
        dtype = np.dtype(dtype_of(name, shape))
        writer.add_tensor_info(name, shape, dtype, int(np.prod(shape)) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(args.seed)
    for name, shape in tqdm(plan, desc=args.output.name, unit="tensor", disable=None):
        if name.endswith((".bias", "sinks.weight")):
            data = rng.standard_normal(shape, dtype=np.float32)
            data *= 1 if "sinks" in name else 0.1
        elif len(shape) == 1:
            data = np.ones(shape, np.float32)
        else:
            data = rng.standard_normal(shape, dtype=np.float32)
            data *= shape[-1] ** -0.5
        writer.write_tensor_data(data.astype(dtype_of(name, shape), copy=False))
    writer.close()
    part.rename(args.output)


if __name__ == "__main__":
    main()
