// Which of the compiled instruction sets this machine runs, the best first; what they were built of; and what
// needs no vectors.

#include <stdint.h>

const char *rnnbench_sets(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
        return "avx512 avx2 baseline";
    if (avx2) return "avx2 baseline";
#endif
    return "baseline";
}

const char *rnnbench_sources(void) { return SOURCES; }

const char *rnnbench_cells(void) { return CELLS; }  // in the order of their numbers, one a line

static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

// u (n, draws) = the uniforms of examples `number` of seeds `seed`, (n) each: those of tasks/generated.py.
void rnnbench_uniforms(const int64_t *seed, const int64_t *number, int64_t n, int64_t purpose, int64_t draws,
                       double *u) {
    const uint64_t golden = 0x9E3779B97F4A7C15;
    for (int64_t i = 0; i < n; i++) {
        const uint64_t start = mix(mix(seed[i] + golden) + (purpose + 1) * golden);
        uint64_t at = start + (uint64_t)number[i] * draws * golden;
        for (int64_t d = 0; d < draws; d++) *u++ = (mix(at += golden) >> 11) * 0x1p-53;
    }
}
