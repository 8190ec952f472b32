// Preloaded into a program with ggml: every graph takes SLOWER_PERCENT more time than it took, by waiting after it.
// cc -O2 -shared -fPIC -o slower.so slower.c
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

int ggml_graph_compute(void *graph, void *plan) {
    static int (*original)(void *, void *);
    static double share;
    if (!original) {
        const char *percent = getenv("SLOWER_PERCENT");
        share = percent ? atof(percent) / 100 : 0;
        original = (int (*)(void *, void *)) dlsym(RTLD_NEXT, "ggml_graph_compute");
    }
    double start = now();
    int status = original(graph, plan);
    double end = now();
    while (now() < end + (end - start) * share) {}
    return status;
}
