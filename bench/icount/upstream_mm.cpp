// One MUL_MAT by upstream ggml on one thread: the other side of src/kernels/examples/one_product.rs,
// same arguments, same numbers, counted by scripts/icount.sh. It prints the sum of the result's
// magnitudes, which must agree with ours.
//
// usage: upstream_mm LAYOUT TYPE M K N REPS
//   LAYOUT  plain, or repack: weights in a CPU_REPACK buffer, llama.cpp's default where it exists
// Exit status 3: this type has no such layout here.
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

// The generator of one_product.rs.
static uint32_t random_state = 1;
static uint32_t random_next() { return random_state = random_state * 1664525u + 1013904223u; }

static ggml_type type_named(const char * name) {
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const char * n = ggml_type_name((ggml_type) i);
        if (n && !strcmp(n, name)) return (ggml_type) i;
    }
    fprintf(stderr, "upstream_mm: no type %s\n", name);
    exit(2);
}

static ggml_backend_buffer_type_t repack_buffers() {
    auto get = (ggml_backend_dev_get_extra_bufts_t) ggml_backend_reg_get_proc_address(
        ggml_backend_cpu_reg(), "ggml_backend_dev_get_extra_bufts");
    for (auto * b = get(ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0)); *b; b++) {
        if (!strcmp(ggml_backend_buft_name(*b), "CPU_REPACK")) return *b;
    }
    fprintf(stderr, "upstream_mm: this build has no CPU_REPACK buffers\n");
    exit(2);
}

int main(int argc, char ** argv) {
    if (argc != 7) {
        fprintf(stderr, "usage: upstream_mm plain|repack TYPE M K N REPS\n");
        return 2;
    }
    const bool      repack = !strcmp(argv[1], "repack");
    const ggml_type type   = type_named(argv[2]);
    const long      M = atol(argv[3]), K = atol(argv[4]), N = atol(argv[5]);
    const int       reps = atoi(argv[6]);

    const size_t       floats   = sizeof(float) * (size_t) (K * N + M * N);
    ggml_init_params   headers  = { (size_t) 1 << 20, nullptr, true };
    ggml_init_params   contents = { floats + ((size_t) 1 << 20), nullptr, false };
    ggml_context *     weights  = ggml_init(headers);
    ggml_context *     ctx      = ggml_init(contents);
    ggml_tensor *      a        = ggml_new_tensor_2d(weights, type, K, M);
    const auto         buft     = repack ? repack_buffers() : ggml_backend_cpu_buffer_type();
    const auto         buffer   = ggml_backend_buft_alloc_buffer(buft, ggml_backend_buft_get_alloc_size(buft, a));
    ggml_backend_tensor_alloc(buffer, a, ggml_backend_buffer_get_base(buffer));
    if (repack && !a->extra) {
        fprintf(stderr, "upstream_mm: %s is not repacked by this build\n", argv[2]);
        return 3;
    }

    std::vector<uint8_t> bytes(ggml_nbytes(a));
    // Masked so that no scale, wherever it lies in the block, is infinite or NaN.
    for (auto & b : bytes) b = (random_next() >> 24) & 0x3b;
    ggml_backend_tensor_set(a, bytes.data(), 0, bytes.size());
    ggml_tensor * b = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, K, N);
    for (long i = 0; i < K * N; i++) ((float *) b->data)[i] = (float) ((random_next() >> 8) % 2001) / 1000.0f - 1.0f;

    ggml_tensor * product = ggml_mul_mat(ctx, a, b);
    ggml_cgraph * graph   = ggml_new_graph(ctx);
    ggml_build_forward_expand(graph, product);
    ggml_cplan           plan = ggml_graph_plan(graph, 1, nullptr);
    std::vector<uint8_t> work(plan.work_size + 64);
    plan.work_data = work.data();
    for (int r = 0; r < reps; r++) ggml_graph_compute(graph, &plan);

    double sum = 0;
    for (long i = 0; i < M * N; i++) sum += fabs(((float *) product->data)[i]);
    printf("upstream/%s sum %e\n", argv[2], sum);
}
