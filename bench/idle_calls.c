/*
 * What calls of the C library cost that the shim stands in front of: one line `call,bytes,ns` for each, of the
 * fastest of many batches, since whatever else the machine does only adds to one. For bench/idle.py, which runs it with and without the shim. Compiled with
 * -fno-builtin, so that every call is one.
 * In a thread of its own, whose heap is empty: the cost of memalign depends on where the heap happens to be and on what
 * was freed before, which any earlier allocation changes.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { BATCHES = 101, FAST = 2000, SLOW = 60, ROOM = 1 << 16 };

static char from[ROOM], to[ROOM];
void *__memcpy_chk(void *, const void *, size_t, size_t);
void *__memmove_chk(void *, const void *, size_t, size_t);

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

/* Times `call`, which may use the number `i` and the size `n`. */
#define TIME(name, bytes, times, call)                                        \
    do {                                                                      \
        double least = 1e9;                                                   \
        size_t n = bytes;                                                     \
        for (int batch = 0; batch < BATCHES; batch++) {                       \
            double start = now();                                             \
            for (int i = 0; i < times; i++) {                                 \
                __asm__ volatile("" : "+r"(n), "+r"(i)::"memory");            \
                call;                                                         \
            }                                                                 \
            double ns = (now() - start) / times;                              \
            if (ns < least) least = ns;                                       \
        }                                                                     \
        printf("%s,%zu,%.3f\n", name, (size_t) bytes, least);                 \
    } while (0)

static void *measure(void *unused) {
    size_t sizes[] = { 16, 256, 4096 };
    for (int s = 0; s < 3; s++) {
        size_t size = sizes[s];
        TIME("memcpy", size, FAST, memcpy(to, from, n));
        TIME("memmove", size, FAST, memmove(to, from, n));
        TIME("__memcpy_chk", size, FAST, __memcpy_chk(to, from, n, ROOM));
        TIME("__memmove_chk", size, FAST, __memmove_chk(to, from, n, ROOM));
        TIME("malloc and free", size, FAST, free(malloc(n)));
        TIME("calloc and free", size, FAST, free(calloc(1, n)));
        TIME("memalign and free", size, FAST, free(memalign(64, n)));
        TIME("aligned_alloc and free", size, FAST, free(aligned_alloc(64, n)));
        void *p = NULL;
        TIME("posix_memalign and free", size, FAST, (void) !posix_memalign(&p, 64, n); free(p));
        void *q = malloc(size);
        TIME("realloc", size, FAST, q = realloc(q, n + (i & 1)));
        free(q);
    }
    /* Far from all other mappings, beside a page that is there: what the kernel does depends on the neighbours. */
    char *place = (char *) 0x100000000000, *pages = mmap(place, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(pages, 1, ROOM);
    place += 2 * ROOM;
    TIME("mmap and munmap", 4096, SLOW, munmap(mmap(place, n, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), n));
    TIME("madvise", 4096, SLOW, madvise(pages, n, MADV_WILLNEED));
    TIME("mprotect", 4096, SLOW, mprotect(pages, n, PROT_READ | PROT_WRITE));
    return unused;
}

int main(void) {
    pthread_t thread;
    return pthread_create(&thread, NULL, measure, NULL) || pthread_join(thread, NULL);
}
