// Instruction sets that this processor and its operating system support, and the digest of the sources of this library.

extern "C" __attribute__((visibility("default"))) const char* sources_digest() { return DIGEST; }

extern "C" __attribute__((visibility("default"))) int supports_avx512() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
#else
    return 0;
#endif
}

extern "C" __attribute__((visibility("default"))) int supports_avx2() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 0;
#endif
}
