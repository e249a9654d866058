// Matrix products over blocks of registers. The batch is innermost: every vector holds the same
// feature of LANES examples, and a number of a matrix is spread over all of its lanes.

#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 6, VECTORS = 4, LEFT = 6, RIGHT = 4 };  // 24 sums in 32 registers
#elif defined(__AVX__)
enum { LANES = 8, ROWS = 6, VECTORS = 2, LEFT = 4, RIGHT = 3 };  // 12 sums in 16 registers
#else
enum { LANES = 4, ROWS = 6, VECTORS = 2, LEFT = 4, RIGHT = 3 };
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *from) { return *(const unaligned *)from; }
INLINE void store(float *to, vec x) { *(unaligned *)to = x; }

// A factor of a product: a matrix A (M, depth), element (m, k) at a[m * row + k * column], times
// B (depth, N), its rows `width` apart. A transposed matrix is one with row and column exchanged.
struct factor {
    const float *a;
    long row, column;
    const float *b;
    long width;
    int depth;
};

// One block of C: m rows, v vectors. C = start + sum of the factors' products, start being the bias
// of each row, or C itself where there is none and `add` is set, or 0.
INLINE void product_block(const int m, const int v, const struct factor *factors, int count,
                          const float *bias, int add, float *c, long width) {
    vec sum[ROWS][VECTORS];
    for (int i = 0; i < m; i++)
        for (int j = 0; j < v; j++)
            if (bias) sum[i][j] = (vec){} + bias[i];
            else if (add) sum[i][j] = load(c + i * width + j * LANES);
            else sum[i][j] = (vec){};
    for (; count--; factors++) {
        const float *a = factors->a, *b = factors->b;
        const long row = factors->row, column = factors->column, step = factors->width;
        for (int k = factors->depth; k--; a += column, b += step)
            for (int j = 0; j < v; j++) {
                const vec right = load(b + j * LANES);
                for (int i = 0; i < m; i++) sum[i][j] += a[i * row] * right;
            }
    }
    for (int i = 0; i < m; i++)
        for (int j = 0; j < v; j++) store(c + i * width + j * LANES, sum[i][j]);
}

INLINE void product_rows(const int m, const struct factor *factors, int count, const float *bias, int add,
                         float *c, long width, int N) {
    struct factor part[2];
    for (int f = 0; f < count; f++) part[f] = factors[f];
    int n = 0;
    for (; n + VECTORS * LANES <= N; n += VECTORS * LANES) {
        product_block(m, VECTORS, part, count, bias, add, c + n, width);
        for (int f = 0; f < count; f++) part[f].b += VECTORS * LANES;
    }
    for (; n < N; n += LANES) {
        product_block(m, 1, part, count, bias, add, c + n, width);
        for (int f = 0; f < count; f++) part[f].b += LANES;
    }
}

// C (M, N) = start + sum over at most two factors of A B; C's rows are `width` apart, N is a multiple
// of LANES.
static void product(int M, int N, const struct factor *factors, int count, const float *bias, int add,
                    float *c, long width) {
    struct factor part[2];
    for (int f = 0; f < count; f++) part[f] = factors[f];
    for (int m = 0; m < M; m += ROWS) {
        const float *own = bias ? bias + m : 0;
        float *to = c + m * width;
        switch (M - m) {
            case 1: product_rows(1, part, count, own, add, to, width, N); break;
            case 2: product_rows(2, part, count, own, add, to, width, N); break;
            case 3: product_rows(3, part, count, own, add, to, width, N); break;
            case 4: product_rows(4, part, count, own, add, to, width, N); break;
            case 5: product_rows(5, part, count, own, add, to, width, N); break;
            default: product_rows(ROWS, part, count, own, add, to, width, N);
        }
        for (int f = 0; f < count; f++) part[f].a += ROWS * part[f].row;
    }
}

// The sum of a vector's lanes, by halves.
INLINE float lanes_sum(vec x) {
    float part[LANES];
    store(part, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
}

// One block of C (m, n) += sum over `steps` steps and the batch of A's rows times B's rows.
INLINE void outer_block(const int m, const int n, int steps, int N, const float *a, long a_step,
                        const float *b, long b_step, float *c, long width) {
    vec sum[LEFT][RIGHT] = {};
    for (; steps--; a += a_step, b += b_step)
        for (int at = 0; at < N; at += LANES) {
            vec right[RIGHT];
            for (int j = 0; j < n; j++) right[j] = load(b + j * N + at);
            for (int i = 0; i < m; i++) {
                const vec left = load(a + i * N + at);
                for (int j = 0; j < n; j++) sum[i][j] += left * right[j];
            }
        }
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) c[i * width + j] += lanes_sum(sum[i][j]);
}

INLINE void outer_rows(const int m, int count, int steps, int N, const float *a, long a_step,
                       const float *b, long b_step, float *c, long width) {
    int n = 0;
    for (; n + RIGHT <= count; n += RIGHT) outer_block(m, RIGHT, steps, N, a, a_step, b + n * N, b_step, c + n, width);
    for (; n < count; n++) outer_block(m, 1, steps, N, a, a_step, b + n * N, b_step, c + n, width);
}

// C (left, right) += sum over T steps and the batch of A (T, left, N) B (T, right, N), with a_step and
// b_step from one step to the next. Steps are taken in runs whose rows of A stay in the first cache.
static void outer(int left, int right, int T, int N, const float *a, long a_step, const float *b, long b_step,
                  float *c) {
    const int run = N < 2048 ? 2048 / N : 1;
    for (int t = 0; t < T; t += run) {
        const int steps = T - t < run ? T - t : run;
        for (int m = 0; m < left; m += LEFT) {
            const float *from = a + t * a_step + m * N, *with = b + t * b_step;
            float *to = c + m * right;
            switch (left - m) {
                case 1: outer_rows(1, right, steps, N, from, a_step, with, b_step, to, right); break;
                case 2: outer_rows(2, right, steps, N, from, a_step, with, b_step, to, right); break;
                case 3: outer_rows(3, right, steps, N, from, a_step, with, b_step, to, right); break;
#if defined(__AVX512F__)
                case 4: outer_rows(4, right, steps, N, from, a_step, with, b_step, to, right); break;
                case 5: outer_rows(5, right, steps, N, from, a_step, with, b_step, to, right); break;
#endif
                default: outer_rows(LEFT, right, steps, N, from, a_step, with, b_step, to, right);
            }
        }
    }
}

// c[i] += the sum over T steps and the batch of row i of A (T, rows, N).
static void row_sums(int rows, int T, int N, const float *a, long a_step, float *c) {
    for (int i = 0; i < rows; i++, a += N) {
        vec sum = {};
        for (int t = 0; t < T; t++)
            for (int at = 0; at < N; at += LANES) sum += load(a + t * a_step + at);
        c[i] += lanes_sum(sum);
    }
}
