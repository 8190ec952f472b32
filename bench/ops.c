/*
 * Times operations that are no products, as models have them: for each one a line with its name, the threads, and the
 * nanoseconds of one operation with the barrier behind it, the best of several turns. bench/ops.py runs it with and without the
 * library.
 */
#include <ggml.h>
#include <ggml-cpu.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Nodes of a graph of one token. */
#define NODES 200

static struct ggml_context *c;

static struct ggml_tensor *floats(int64_t n0, int64_t n1, int64_t n2, int64_t n3) {
    struct ggml_tensor *t = ggml_new_tensor_4d(c, GGML_TYPE_F32, n0, n1, n2, n3);
    uint32_t seed = 7;
    for (int64_t i = 0; i < ggml_nelements(t); i++) {
        seed = seed * 1664525u + 1013904223u;
        ((float *) t->data)[i] = (float) (int32_t) seed / 536870912.0f;
    }
    return t;
}

static struct ggml_tensor *gates(int64_t heads, int64_t tokens) {
    struct ggml_tensor *t = floats(1, heads, tokens, 1);
    for (int64_t i = 0; i < ggml_nelements(t); i++) ((float *) t->data)[i] = -0.1f;
    return t;
}

static struct ggml_tensor *ids(int64_t used, int64_t tokens, int64_t all) {
    struct ggml_tensor *t = ggml_new_tensor_2d(c, GGML_TYPE_I32, used, tokens);
    for (int64_t i = 0; i < used * tokens; i++) ((int32_t *) t->data)[i] = (int32_t) (i * 7 % all);
    return t;
}

/* The first rows of a longer tensor: for one token, each node sorts another row, as in a model. A row that is sorted again
   and again is one that the CPU foresees. */
static struct ggml_tensor *first_rows(int64_t n0, int64_t n1) {
    return ggml_view_2d(c, floats(n0, n1 > NODES ? n1 : NODES, 1, 1), n0, n1, n0 * 4, 0);
}

static struct ggml_tensor *positions(int64_t tokens) {
    struct ggml_tensor *t = ggml_new_tensor_1d(c, GGML_TYPE_I32, tokens);
    for (int64_t i = 0; i < tokens; i++) ((int32_t *) t->data)[i] = 1000 + (int32_t) i;
    return t;
}

/* A mask of halves that hides nothing. */
static struct ggml_tensor *halves(int64_t n0, int64_t n1) {
    struct ggml_tensor *t = ggml_new_tensor_2d(c, GGML_TYPE_F16, n0, n1);
    memset(t->data, 0, ggml_nbytes(t));
    return t;
}

/* The operation with this number, for so many tokens; its name. Null after the last one. */
static struct ggml_tensor *operation(int number, int64_t n, const char **name) {
#define CASE(i, text, t) case i: *name = text; return t;
    switch (number) {
    CASE(0, "MUL expert weights 2048x8", ggml_mul(c, floats(2048, 8, n, 1), floats(1, 8, n, 1)))
    CASE(1, "ADD residual 2048", ggml_add(c, floats(2048, n, 1, 1), floats(2048, n, 1, 1)))
    CASE(2, "ADD bias 2880", ggml_add(c, floats(2880, n, 1, 1), floats(2880, 1, 1, 1)))
    CASE(3, "MUL norm weights 2560", ggml_mul(c, floats(2560, n, 1, 1), floats(2560, 1, 1, 1)))
    CASE(4, "DIV by the sum of 8", ggml_div(c, floats(8, n, 1, 1), floats(1, n, 1, 1)))
    CASE(5, "SUB 2048", ggml_sub(c, floats(2048, n, 1, 1), floats(2048, n, 1, 1)))
    CASE(6, "ADD_ID 2880x4", ggml_add_id(c, floats(2880, 4, n, 1), floats(2880, 32, 1, 1), ids(4, n, 32)))
    CASE(7, "SWIGLU split 768x8", ggml_swiglu_split(c, floats(768, 8, n, 1), floats(768, 8, n, 1)))
    CASE(8, "SWIGLU split 9728", ggml_swiglu_split(c, floats(9728, n, 1, 1), floats(9728, n, 1, 1)))
    CASE(9, "SWIGLU 2x1408x6", ggml_swiglu(c, floats(2816, 6, n, 1)))
    CASE(10, "SWIGLU_OAI split 2880x4", ggml_swiglu_oai(c, floats(2880, 4, n, 1), floats(2880, 4, n, 1), 1.702f, 7.0f))
    CASE(11, "GEGLU split 10240", ggml_geglu_split(c, floats(10240, n, 1, 1), floats(10240, n, 1, 1)))
    CASE(12, "GEGLU_QUICK split 4096", ggml_geglu_quick_split(c, floats(4096, n, 1, 1), floats(4096, n, 1, 1)))
    CASE(13, "REGLU split 4096", ggml_reglu_split(c, floats(4096, n, 1, 1), floats(4096, n, 1, 1)))
    CASE(14, "SILU 8192", ggml_silu(c, floats(8192, n, 1, 1)))
    CASE(15, "GELU 4304", ggml_gelu(c, floats(4304, n, 1, 1)))
    CASE(16, "GELU_QUICK 4096", ggml_gelu_quick(c, floats(4096, n, 1, 1)))
    CASE(17, "SIGMOID 4096", ggml_sigmoid(c, floats(4096, n, 1, 1)))
    CASE(18, "TANH 4096", ggml_tanh(c, floats(4096, n, 1, 1)))
    CASE(19, "RMS_NORM 2560", ggml_rms_norm(c, floats(2560, n, 1, 1), 1e-6f))
    CASE(20, "RMS_NORM heads 128x32", ggml_rms_norm(c, floats(128, 32, n, 1), 1e-6f))
    CASE(21, "L2_NORM heads 128x16", ggml_l2_norm(c, floats(128, 16, n, 1), 1e-6f))
    CASE(22, "CONCAT MLA 64+512x16", ggml_concat(c, floats(64, 16, n, 1), floats(512, 16, n, 1), 0))
    CASE(23, "CONCAT window 3+nx8192", ggml_concat(c, floats(3, 8192, 1, 1), ggml_transpose(c, floats(8192, n, 1, 1)), 0))
    CASE(24, "CONCAT rows 128x(16+16)", ggml_concat(c, floats(128, 16, n, 1), floats(128, 16, n, 1), 1))
    CASE(25, "SSM_CONV 8192", ggml_ssm_conv(c, floats(n + 3, 8192, 1, 1), floats(4, 8192, 1, 1)))
    CASE(26, "GATED_DELTA_NET 128x32", ggml_gated_delta_net(c, floats(128, 16, n, 1), floats(128, 16, n, 1), floats(128, 32, n, 1), gates(32, n), gates(32, n), floats(128, 128, 32, 1), 1))
    CASE(27, "ADD view of experts 2048", ggml_add(c, floats(2048, n, 1, 1), ggml_view_2d(c, floats(2048, 8, n, 1), 2048, n, 8 * 2048 * 4, 2048 * 4)))
    CASE(28, "SOFT_MAX 512 keys, 32 heads", ggml_soft_max_ext(c, floats(512, n, 32, 1), halves(512, n), 0.088f, 0.0f))
    CASE(29, "SOFT_MAX 2560 keys, 32 heads", ggml_soft_max_ext(c, floats(2560, n, 32, 1), halves(2560, n), 0.088f, 0.0f))
    CASE(30, "SOFT_MAX 128 experts", ggml_soft_max(c, floats(128, n, 1, 1)))
    CASE(31, "SOFT_MAX 256 experts", ggml_soft_max(c, floats(256, n, 1, 1)))
    CASE(32, "ARGSORT 64 experts", ggml_argsort(c, first_rows(64, n), GGML_SORT_ORDER_DESC))
    CASE(33, "ARGSORT 128 experts", ggml_argsort(c, first_rows(128, n), GGML_SORT_ORDER_DESC))
    CASE(34, "ARGSORT 256 experts", ggml_argsort(c, first_rows(256, n), GGML_SORT_ORDER_DESC))
    CASE(35, "ARGSORT 512 experts", ggml_argsort(c, first_rows(512, n), GGML_SORT_ORDER_DESC))
    CASE(36, "SSM_SCAN 128x64x48", ggml_ssm_scan(c, floats(128, 64, 48, 1), floats(64, 48, n, 1), floats(48, n, 1, 1), gates(48, 1), floats(128, 1, n, 1), floats(128, 1, n, 1), ids(1, 1, 1), 1))
    CASE(37, "GELU_ERF 4096", ggml_gelu_erf(c, floats(4096, n, 1, 1)))
    CASE(38, "GEGLU_ERF split 4096", ggml_geglu_erf_split(c, floats(4096, n, 1, 1), floats(4096, n, 1, 1)))
    CASE(39, "ROPE 128x32, halves", ggml_rope_ext(c, floats(128, 32, n, 1), positions(n), NULL, 128, GGML_ROPE_TYPE_NEOX, 4096, 1e6f, 1.0f, 0.0f, 1.0f, 32.0f, 1.0f))
    CASE(40, "ROPE 128x32, neighbours", ggml_rope_ext(c, floats(128, 32, n, 1), positions(n), NULL, 128, GGML_ROPE_TYPE_NORMAL, 4096, 5e5f, 1.0f, 0.0f, 1.0f, 32.0f, 1.0f))
    CASE(41, "ROPE 64x8 of YaRN", ggml_rope_ext(c, floats(64, 8, n, 1), positions(n), NULL, 64, GGML_ROPE_TYPE_NEOX, 4096, 1.5e5f, 0.03125f, 1.0f, 1.0f, 32.0f, 1.0f))
    CASE(42, "RMS_NORM MUL 2560", ggml_mul(c, ggml_rms_norm(c, floats(2560, n, 1, 1), 1e-6f), floats(2560, 1, 1, 1)))
    CASE(43, "RMS_NORM MUL heads 128x32", ggml_mul(c, ggml_rms_norm(c, floats(128, 32, n, 1), 1e-6f), floats(128, 1, 1, 1)))
    }
    return NULL;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv) {
    static const int64_t tokens[] = { 1, 256 };
    const char *only = argc > 2 ? argv[2] : "";
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    struct ggml_init_params p = { 512 << 20, NULL, false };
    for (int i = 0;; i++)
        for (int k = 0; k < 2; k++) {
            const char *name = NULL;
            c = ggml_init(p);
            struct ggml_tensor *t = operation(i, tokens[k], &name);
            if (!t) return 0;
            if (strstr(name, only)) {
                /* The same operation many times: a graph costs more than a small one. */
                int nodes = tokens[k] == 1 ? NODES : 2;
                struct ggml_cgraph *graph = ggml_new_graph_custom(c, 1024, false);
                ggml_build_forward_expand(graph, t);
                for (int j = 1; j < nodes; j++) {
                    struct ggml_tensor *again = ggml_dup_tensor(c, t);
                    void *data = again->data;
                    memcpy(again, t, sizeof *again);
                    again->data = t->op == GGML_OP_GATED_DELTA_NET || t->op == GGML_OP_SSM_SCAN || tokens[k] > 1 ? t->data : data;
                    if (t->op == GGML_OP_ARGSORT && tokens[k] == 1) {
                        struct ggml_tensor *row = ggml_dup_tensor(c, t->src[0]);
                        row->data = (char *) t->src[0]->data + j * t->src[0]->nb[1];
                        again->src[0] = row;
                    }
                    if (t->src[0] && t->src[0]->op == GGML_OP_RMS_NORM) {
                        /* A norm that ggml fuses has one reader. */
                        struct ggml_tensor *norm = again->src[0] = ggml_dup_tensor(c, t->src[0]);
                        void *own = norm->data;
                        memcpy(norm, t->src[0], sizeof *norm);
                        norm->data = own;
                    }
                    ggml_build_forward_expand(graph, again);
                }
                struct ggml_cplan plan = ggml_graph_plan(graph, threads, NULL);
                plan.work_data = malloc(plan.work_size + 64);
                double best = 1e30;
                for (double start = now(); now() - start < 60e6;) {
                    double before = now();
                    if (ggml_graph_compute(graph, &plan) != GGML_STATUS_SUCCESS) return 1;
                    double ns = (now() - before) / nodes;
                    if (ns < best) best = ns;
                }
                free(plan.work_data);
                printf("%s|%ld|%d|%.0f\n", name, (long) tokens[k], threads, best);
                fflush(stdout);
            }
            ggml_free(c);
        }
}
