// Which of the compiled instruction sets this machine runs, the best first, and what they were built of.

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
