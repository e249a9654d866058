// The examples of a call: a network reads features, batch innermost.

enum { BYTES, FLOATS, SYMBOLS_16, SYMBOLS_32 };  // kinds of inputs; symbols are numbers of columns of weight_ih
enum { LABEL, VALUE, LABELS, KEYS, VALUES };     // goals, as GOALS in feed.py

// Laid out as Examples in feed.py. Two examples are a stride of elements apart, whatever lies behind each.
struct examples {
    int64_t kind;
    const void *inputs;      // (examples, steps, input), or symbols (examples, steps)
    int64_t input_stride;
    int64_t target_kind;     // BYTES or FLOATS, where the goal is no class
    const void *targets;     // by the goal: int64 (examples) or (examples, steps); else (examples, outputs) or
    int64_t target_stride;   // (examples, steps, outputs)
    const int64_t *lengths;  // (examples) steps that count; 0: all do
    int64_t steps;           // of the longest example of the call
    double scale, shift;     // a byte enters as byte * scale + shift
    const float *weights;    // (outputs) how much an answer of each class counts in the loss; 0: all count 1
};

// A chunk of a minibatch of one trial.
struct chunk {
    const int64_t *index;  // its examples
    int count, N, T;       // examples; columns; steps of its longest example
    int train;
    const int64_t *lengths;  // (N) steps of each column that count; 0: all do
    float share;             // 1 / answers of the minibatch
    // What was drawn, of the chunk's first example; that of the next one stands beside it. 0: nothing was.
    const float *dropout, *recurrent, *zoneout;
    float *carried;  // (levels, states, hidden, batch): the state that minibatches hand on; 0: they do not
    int fresh;       // whether the chunk does not begin from it
    int64_t batch;   // examples between the rows of all these
    int64_t steps;   // T of dropout and zoneout
};

// Columns after the examples repeat the last one: what is computed there is not used, but is no nan either.
static int example_of(const struct chunk *c, int column) { return column < c->count ? column : c->count - 1; }

typedef uint8_t bytes __attribute__((vector_size(16), aligned(1), may_alias));

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (bytes){__VA_ARGS__})
#endif

// Transposes 16 x 16 bytes: four rounds that each interleave row i with row i + 8.
INLINE void transpose_bytes(bytes *row) {
    for (int round = 0; round < 4; round++) {
        bytes next[16];
        for (int i = 0; i < 8; i++) {
            next[2 * i] = SHUFFLE(row[i], row[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            next[2 * i + 1] =
                SHUFFLE(row[i], row[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        for (int i = 0; i < 16; i++) row[i] = next[i];
    }
}

// x (rows, 16 of N columns) = scale * byte + shift of bytes from from[j] + f on, one of the 16 columns each.
INLINE void turn(const int rows, const uint8_t *const *from, long f, float scale, float shift, float *x, int N) {
    bytes block[16] = {};
    uint8_t turned[16][16];  // in memory: from registers the compiler takes the bytes one by one
    for (int j = 0; j < 16; j++) memcpy(&block[j], from[j] + f, rows);
    transpose_bytes(block);
    memcpy(turned, block, sizeof turned);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 16; j++) x[i * N + j] = turned[i][j] * scale + shift;
}

// x (features, N) = scale * byte + shift of examples that begin at data + index * stride.
static void gather(const uint8_t *data, int64_t stride, long features, const struct chunk *c, float scale,
                   float shift, float *x) {
    for (int at = 0; at < c->N; at += 16) {
        const uint8_t *from[16];
        long f = 0;
        for (int j = 0; j < 16; j++) from[j] = data + c->index[example_of(c, at + j)] * stride;
        for (; f + 16 <= features; f += 16) turn(16, from, f, scale, shift, x + f * c->N + at, c->N);
        if (f < features) turn(features - f, from, f, scale, shift, x + f * c->N + at, c->N);
    }
}

// x (features, N) of examples that begin at data + index * stride.
static void gather_floats(const float *data, int64_t stride, long features, const struct chunk *c, float *x) {
    for (long top = 0; top < features; top += 64)  // the lines of so many rows stay in the nearest cache
        for (int j = 0; j < c->N; j++) {
            const float *from = data + c->index[example_of(c, j)] * stride;
            for (long f = top; f < features && f < top + 64; f++) x[f * c->N + j] = from[f];
        }
}

// The chunk's inputs: x (T, input, N), or symbols (T, N).
static void read_inputs(const struct examples *e, long input, const struct chunk *c, float *x, int32_t *symbols) {
    const long features = c->T * input;
    switch (e->kind) {
        case BYTES: gather(e->inputs, e->input_stride, features, c, e->scale, e->shift, x); return;
        case FLOATS: gather_floats(e->inputs, e->input_stride, features, c, x); return;
    }
    for (int j = 0; j < c->N; j++) {
        const int64_t at = c->index[example_of(c, j)] * e->input_stride;
        for (int t = 0; t < c->T; t++)
            symbols[t * c->N + j] = e->kind == SYMBOLS_16 ? ((const int16_t *)e->inputs)[at + t]
                                                          : ((const int32_t *)e->inputs)[at + t];
    }
}

// to (rows, N) = the chunk's columns of `from`, whose rows are c->batch apart.
static void read_columns(const float *from, long rows, const struct chunk *c, float *to) {
    for (long row = 0; row < rows; row++, from += c->batch, to += c->N) {
        memcpy(to, from, sizeof(float) * c->count);
        for (int j = c->count; j < c->N; j++) to[j] = from[c->count - 1];
    }
}

static void write_columns(const float *from, long rows, const struct chunk *c, float *to) {
    for (long row = 0; row < rows; row++) memcpy(to + row * c->batch, from + row * c->N, sizeof(float) * c->count);
}

// Where step t of a column stands when its steps are in reverse order, those after its end as they are.
static int mirrored(const struct chunk *c, int column, int t) {
    return t < c->lengths[column] ? c->lengths[column] - 1 - t : t;
}

// to (T, rows, N) = `from` with each column's steps in reverse order, or `to` plus that; steps are from_step
// and to_step floats apart.
static void flip(const struct chunk *c, long rows, const float *from, long from_step, float *to, long to_step,
                 int add) {
    for (int t = 0; t < c->T; t++, to += to_step) {
        const float *column[CHUNK];
        for (int j = 0; j < c->N; j++) column[j] = from + mirrored(c, j, t) * from_step + j;
        for (long row = 0; row < rows; row++)
            for (int j = 0; j < c->N; j++)
                to[row * c->N + j] = column[j][row * c->N] + (add ? to[row * c->N + j] : 0);
    }
}

static void flip_symbols(const struct chunk *c, const int32_t *from, int32_t *to) {
    for (int t = 0; t < c->T; t++)
        for (int j = 0; j < c->N; j++) to[t * c->N + j] = from[mirrored(c, j, t) * c->N + j];
}
