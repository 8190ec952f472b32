#!/usr/bin/env python3
"""llama-bench for ik_llama.cpp, through the libraries of its Python package.

Does what `llama-bench -r 1 -o json` does: for a prompt one batch of N random tokens (micro-batches of
512) after one such batch to warm up; for generation N decodes of one token after one to warm up; a new
context for each test. Prints llama-bench's JSON fields that a comparison needs.

The package's own settings stay as they are (flash attention on, no repacking at load) unless options
say otherwise. Only the standard library is used: the package's `__init__` would import numpy.
"""

import argparse
import ctypes
import json
import os
import random
import sys
import time
import types


def load(package):
    """The package's ctypes declarations, without running its `__init__`."""
    name = os.path.basename(os.path.normpath(package))
    module = types.ModuleType(name)
    module.__path__ = [package]
    sys.modules[name] = module
    return __import__(f"{name}._ctypes_api", fromlist=["_ctypes_api"])


def bind(api):
    """Functions of llama.h that the package does not declare."""
    lib = api._lib
    lib.llama_batch_get_one.argtypes = [api.llama_token_p, ctypes.c_int32, api.llama_pos, api.llama_seq_id]
    lib.llama_batch_get_one.restype = api.llama_batch
    lib.llama_synchronize.argtypes = [ctypes.c_void_p]
    lib.llama_synchronize.restype = None
    lib.llama_n_vocab.argtypes = [ctypes.c_void_p]
    lib.llama_n_vocab.restype = ctypes.c_int32
    lib.llama_print_system_info.restype = ctypes.c_char_p
    return lib


class Bench:
    """One loaded model."""

    def __init__(self, api, options):
        self.api, self.lib, self.options = api, bind(api), options
        quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self.log = quiet(lambda level, text, data: None)  # kept: the library calls it as long as it lives
        self.lib.llama_log_set.argtypes = [quiet, ctypes.c_void_p]
        if not options.verbose:
            self.lib.llama_log_set(self.log, None)
        api.llama_backend_init()
        params = api.llama_model_default_params()
        params.repack_tensors = bool(options.repack)
        self.model = api.llama_model_load_from_file(os.fsencode(options.model), params)
        if not self.model:
            sys.exit(f"ik_bench: ik_llama.cpp cannot load {os.path.basename(options.model)} (--verbose tells why)")
        self.tokens = random.Random(1)
        self.vocabulary = self.lib.llama_n_vocab(self.model)

    def description(self):
        text = ctypes.create_string_buffer(256)
        self.api.llama_model_desc(self.model, text, len(text))
        return text.value.decode()

    def context(self, tokens):
        params = self.api.llama_context_default_params()
        params.n_ctx = tokens
        params.n_batch = max(tokens, params.n_ubatch)
        params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = self.options.threads
        if self.options.flash_attn is not None:
            params.flash_attn = bool(self.options.flash_attn)
        context = self.api.llama_init_from_model(self.model, params)
        if not context:
            sys.exit("ik_bench: ik_llama.cpp cannot make a context (--verbose tells why)")
        return context

    def decode(self, context, count, past):
        tokens = (self.api.llama_token * count)(*(self.tokens.randrange(self.vocabulary) for _ in range(count)))
        if self.api.llama_decode(context, self.lib.llama_batch_get_one(tokens, count, past, 0)) != 0:
            sys.exit(f"ik_bench: llama_decode failed at token {past}")
        self.lib.llama_synchronize(context)

    def test(self, prompt, generate):
        """Tokens per second of one of the two, the other being 0."""
        context = self.context(prompt + generate)
        self.decode(context, max(prompt, 1), 0)
        self.api.llama_kv_cache_clear(context)
        start = time.perf_counter()
        if prompt:
            self.decode(context, prompt, 0)
        for past in range(generate):
            self.decode(context, 1, past)
        seconds = time.perf_counter() - start
        self.api.llama_free(context)
        return {
            "model_type": self.description(),
            "n_threads": self.options.threads,
            "n_prompt": prompt,
            "n_gen": generate,
            "avg_ts": (prompt + generate) / seconds,
            "system_info": self.lib.llama_print_system_info().decode().strip(" |"),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", required=True, help="the folder ik_llama_cpp of the package")
    parser.add_argument("-m", "--model", required=True, help="GGUF file")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("-p", "--n-prompt", type=int, default=512, help="0 for none")
    parser.add_argument("-n", "--n-gen", type=int, default=64, help="0 for none")
    parser.add_argument("--flash-attn", type=int, choices=(0, 1), help="default: the package's")
    parser.add_argument("--repack", type=int, choices=(0, 1), default=0, help="repack the weights at load (its -rtr)")
    parser.add_argument("--verbose", action="store_true", help="show the library's log")
    options = parser.parse_args()

    bench = Bench(load(options.package), options)
    tests = [test for test in ((options.n_prompt, 0), (0, options.n_gen)) if any(test)]
    json.dump([bench.test(*test) for test in tests], sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
