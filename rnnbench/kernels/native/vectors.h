// Vectors of the instruction set that is compiled for, and the functions of a gate on them.

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *from) { return *(const unaligned *)from; }
INLINE void store(float *to, vec x) { *(unaligned *)to = x; }

INLINE vec splat(float x) { return (vec){} + x; }

// The smaller, or the larger, of a limit and each lane of x. A nan in x stays, since x86's instructions
// give their second operand where one of both is nan.
INLINE vec at_most(float limit, vec x) {
#if defined(__AVX512F__)
    return _mm512_min_ps(_mm512_set1_ps(limit), x);
#elif defined(__AVX__)
    return _mm256_min_ps(_mm256_set1_ps(limit), x);
#elif defined(__SSE__)
    return _mm_min_ps(_mm_set1_ps(limit), x);
#else
    for (int i = 0; i < LANES; i++) x[i] = limit < x[i] ? limit : x[i];
    return x;
#endif
}

INLINE vec at_least(float limit, vec x) { return -at_most(-limit, -x); }

// exp(x) to 1e-7 relative (Cephes' polynomial); x is first limited to where exp(x) is a normal float.
INLINE vec vec_exp(vec x) {
    const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the last bits
    x = at_most(88.0f, at_least(-87.0f, x));
    const vec shifted = x * 1.44269504f + round, whole = shifted - round;
    const vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;  // x - whole * ln 2
    const vec p = 1 + r + r * r * (0.5f + r * (1.6666665e-1f + r * (4.1665796e-2f + r * (8.3334519e-3f +
                  r * (1.3981999e-3f + r * 1.9875691e-4f)))));
    return p * (vec)(((ivec)shifted << 23) + 0x3f800000);
}

INLINE vec sigmoid(vec x) { return 1 / (1 + vec_exp(-x)); }

// tanh(x) to a few units in the last place, as the rational function of Eigen and XLA.
INLINE vec vec_tanh(vec x) {
    x = at_most(7.90531111f, at_least(-7.90531111f, x));
    const vec s = x * x;
    const vec p = x * (4.89352456e-3f + s * (6.37261929e-4f + s * (1.48572236e-5f + s * (5.12229709e-8f +
                  s * (-8.60467152e-11f + s * (2.00018790e-13f + s * -2.76076848e-16f))))));
    const vec q = 4.89352519e-3f + s * (2.26843463e-3f + s * (1.18534706e-4f + s * 1.19825839e-6f));
    return p / q;
}

// 1 where the lanes of a comparison are true, 0 elsewhere.
INLINE vec truth(ivec mask) { return (vec)(mask & (ivec)splat(1)); }

INLINE vec choose(ivec mask, vec then, vec otherwise) {
    return (vec)((mask & (ivec)then) | (~mask & (ivec)otherwise));
}

// The larger and the smaller of two numbers; nan if one of them is.
INLINE vec larger(vec a, vec b) { return choose((a > b) | (a != a), a, b); }
INLINE vec smaller(vec a, vec b) { return choose((a < b) | (a != a), a, b); }

INLINE vec vec_abs(vec x) { return (vec)((ivec)x & 0x7fffffff); }
INLINE vec vec_sign(vec x) { return truth(x > 0) - truth(x < 0); }

INLINE vec vec_sqrt(vec x) {
#if defined(__AVX512F__)
    return _mm512_sqrt_ps(x);
#elif defined(__AVX__)
    return _mm256_sqrt_ps(x);
#elif defined(__SSE__)
    return _mm_sqrt_ps(x);
#else
    for (int i = 0; i < LANES; i++) x[i] = sqrtf(x[i]);
    return x;
#endif
}

// log(x) to 1e-7 relative (Cephes' polynomial): x is m 2^e with m between sqrt(1/2) and sqrt(2).
INLINE vec vec_log(vec x) {
    const ivec exponent = ((ivec)x - 0x3f3504f3) >> 23;
    const vec e = __builtin_convertvector(exponent, vec), m = (vec)((ivec)x - (exponent << 23)) - 1;
    const vec p = 3.3333331174e-1f + m * (-2.4999993993e-1f + m * (2.0000714765e-1f + m * (-1.6668057665e-1f +
                  m * (1.4249322787e-1f + m * (-1.2420140846e-1f + m * (1.1676998740e-1f +
                  m * (-1.1514610310e-1f + m * 7.0376836292e-2f)))))));
    const vec y = m + (m * m * (m * p - 0.5f) - e * 2.12194440e-4f) + e * 0.693359375f;
    const vec known = choose(x < INFINITY, y, x);  // infinity and nan are their own logarithms
    return choose(x > 0, known, choose(x == 0, splat(-INFINITY), splat(NAN)));
}

INLINE vec vec_sin(vec x) {
    for (int i = 0; i < LANES; i++) x[i] = sinf(x[i]);
    return x;
}

INLINE vec vec_cos(vec x) {
    for (int i = 0; i < LANES; i++) x[i] = cosf(x[i]);
    return x;
}
