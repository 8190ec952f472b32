/*
 * zen5turbo: what a program can ask the preloaded library libzen5turbo.so.
 *
 * Nothing here is needed to use it: preloading is enough. Every function may be called from any
 * thread at any time and does not change what the library does. A program that should also run
 * without the library finds the functions with dlsym(RTLD_DEFAULT, ...).
 */
#ifndef ZEN5TURBO_H
#define ZEN5TURBO_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The results of zen5turbo_state(). */
enum zen5turbo_state {
    /* ZEN5TURBO=0, or a set-user-ID program: nothing is changed. */
    ZEN5TURBO_DISABLED = 0,
    /* ggml has not been used yet; nothing has been decided. */
    ZEN5TURBO_WAITING = 1,
    /* ZEN5TURBO_GATE=passthrough: everything is left to ggml. */
    ZEN5TURBO_PASSTHROUGH = 2,
    /* Operations are taken over. */
    ZEN5TURBO_ACTIVE = 3
};

/* The version, for example "0.1.0". Static memory: do not release it. */
const char *zen5turbo_version(void);

/* What the library does in this process: one of enum zen5turbo_state. */
int zen5turbo_state(void);

/*
 * The statistics so far as JSON, the same text that ZEN5TURBO_STATS=FILE writes.
 * Release it with zen5turbo_free(). NULL when it could not be made.
 */
char *zen5turbo_stats_json(void);

/* Releases a string of zen5turbo_stats_json(). NULL is allowed. */
void zen5turbo_free(char *text);

/*
 * How many operations were taken over, and how many were left to ggml. `op` is a name of
 * ggml_op_name ("MUL_MAT"), `type` one of ggml_type_name ("q4_K"), for the weights, or for the keys of
 * "FLASH_ATTN_EXT"; letter case does not matter. NULL stands for all; an unknown name has the count 0.
 */
uint64_t zen5turbo_taken(const char *op, const char *type);
uint64_t zen5turbo_declined(const char *op, const char *type);

#ifdef __cplusplus
}
#endif

#endif /* ZEN5TURBO_H */
