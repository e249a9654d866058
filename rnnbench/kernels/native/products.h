// Matrix products over blocks of registers. The batch is innermost: every vector holds the same
// feature of LANES examples, and a number of a matrix is spread over all of its lanes.

#include "vectors.h"

#if defined(__AVX512F__)
enum { ROWS = 6, VECTORS = 4 };  // 24 sums in 32 registers
#else
enum { ROWS = 6, VECTORS = 2 };  // 12 sums in 16 registers
#endif

// A factor of a product: a matrix A (M, depth), element (m, k) at a[m * row + k * column], times
// B (depth, N), its rows `width` apart. A transposed matrix is one with row and column exchanged.
struct factor {
    const float *a;
    long row, column;
    const float *b;
    long width;
    int depth;
};

enum start { ZERO, BIAS, ITSELF };

// The block of C at (top, left): m rows, v vectors. C = start + sum of the factors' products, start
// being 0, the bias of each row, or C itself.
INLINE void product_block(const int m, const int v, int top, int left, const struct factor *factors,
                          int count, const enum start start, const float *bias, float *c, long width) {
    vec sum[ROWS][VECTORS];
    c += top * width + left;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < v; j++) {
            if (start == BIAS) sum[i][j] = splat(bias[top + i]);
            else if (start == ITSELF) sum[i][j] = load(c + i * width + j * LANES);
            else sum[i][j] = (vec){};
        }
    for (; count--; factors++) {
        const long row = factors->row, column = factors->column, step = factors->width;
        const float *a = factors->a + top * row, *b = factors->b + left;
        for (int k = factors->depth; k--; a += column, b += step)
            for (int j = 0; j < v; j++) {
                const vec right = load(b + j * LANES);
                for (int i = 0; i < m; i++) sum[i][j] += a[i * row] * right;
            }
    }
    for (int i = 0; i < m; i++)
        for (int j = 0; j < v; j++) store(c + i * width + j * LANES, sum[i][j]);
}

INLINE void product_rows(const int m, int top, int N, const struct factor *factors, int count,
                         const enum start start, const float *bias, float *c, long width) {
    for (int left = 0; left < N; left += VECTORS * LANES) switch ((N - left) / LANES) {
            case 1: product_block(m, 1, top, left, factors, count, start, bias, c, width); break;
#if defined(__AVX512F__)
            case 2: product_block(m, 2, top, left, factors, count, start, bias, c, width); break;
            case 3: product_block(m, 3, top, left, factors, count, start, bias, c, width); break;
#endif
            default: product_block(m, VECTORS, top, left, factors, count, start, bias, c, width);
        }
}

INLINE void product_all(int M, int N, const struct factor *factors, int count, const enum start start,
                        const float *bias, float *c, long width) {
    int top = 0;
    for (; top + ROWS <= M; top += ROWS) product_rows(ROWS, top, N, factors, count, start, bias, c, width);
    switch (M - top) {
        case 1: product_rows(1, top, N, factors, count, start, bias, c, width); break;
        case 2: product_rows(2, top, N, factors, count, start, bias, c, width); break;
        case 3: product_rows(3, top, N, factors, count, start, bias, c, width); break;
        case 4: product_rows(4, top, N, factors, count, start, bias, c, width); break;
        case 5: product_rows(5, top, N, factors, count, start, bias, c, width); break;
    }
}

// Each start is compiled by itself: a test in the innermost blocks would cost several percent.
#define APART static __attribute__((noinline)) void
APART product_of(int M, int N, const struct factor *factors, int count, float *c, long width) {
    product_all(M, N, factors, count, ZERO, 0, c, width);
}
APART product_onto(int M, int N, const struct factor *factors, int count, float *c, long width) {
    product_all(M, N, factors, count, ITSELF, 0, c, width);
}
APART product_and_bias(int M, int N, const struct factor *factors, int count, const float *bias, float *c,
                       long width) {
    product_all(M, N, factors, count, BIAS, bias, c, width);
}

// C (M, N) = start + sum over `count` factors of A B; the start is the bias of each row, or C itself where
// there is none and `add` is set, or 0. C's rows are `width` apart, N is a multiple of LANES.
static void product(int M, int N, const struct factor *factors, int count, const float *bias, int add,
                    float *c, long width) {
    if (bias) product_and_bias(M, N, factors, count, bias, c, width);
    else if (!add) product_of(M, N, factors, count, c, width);
    else if (count) product_onto(M, N, factors, count, c, width);
}

typedef float quad __attribute__((vector_size(16)));
typedef float unaligned_quad __attribute__((vector_size(16), aligned(4), may_alias));
#if defined(__clang__)
#define MIX(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define MIX(a, b, i, j, k, l) __builtin_shuffle(a, b, (int __attribute__((vector_size(16)))){i, j, k, l})
#endif

// B (columns, rows) = the transpose of A (rows, columns); rows of A and B are a_width and b_width apart.
static void transpose(int rows, int columns, const float *a, long a_width, float *b, long b_width) {
    int i = 0;
    for (; i + 4 <= rows; i += 4) {
        int j = 0;
        for (; j + 4 <= columns; j += 4) {
            quad row[4], pair[4];
            for (int k = 0; k < 4; k++) row[k] = *(const unaligned_quad *)(a + (i + k) * a_width + j);
            pair[0] = MIX(row[0], row[1], 0, 4, 1, 5), pair[1] = MIX(row[0], row[1], 2, 6, 3, 7);
            pair[2] = MIX(row[2], row[3], 0, 4, 1, 5), pair[3] = MIX(row[2], row[3], 2, 6, 3, 7);
            float *to = b + j * b_width + i;
            *(unaligned_quad *)to = MIX(pair[0], pair[2], 0, 1, 4, 5);
            *(unaligned_quad *)(to + b_width) = MIX(pair[0], pair[2], 2, 3, 6, 7);
            *(unaligned_quad *)(to + 2 * b_width) = MIX(pair[1], pair[3], 0, 1, 4, 5);
            *(unaligned_quad *)(to + 3 * b_width) = MIX(pair[1], pair[3], 2, 3, 6, 7);
        }
        for (; j < columns; j++)
            for (int k = 0; k < 4; k++) b[j * b_width + i + k] = a[(i + k) * a_width + j];
    }
    for (; i < rows; i++)
        for (int j = 0; j < columns; j++) b[j * b_width + i] = a[i * a_width + j];
}

// sums (columns) += the columns of A (rows, columns), columns being a multiple of LANES.
static void column_sums(int rows, long columns, const float *a, float *sums) {
    for (long i = 0; i < columns; i += LANES) {
        vec sum = load(sums + i);
        for (int j = 0; j < rows; j++) sum += load(a + j * columns + i);
        store(sums + i, sum);
    }
}
