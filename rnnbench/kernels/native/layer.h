// One layer in one direction, forward and backward, for one chunk of N columns; and what the functions of
// the cells, which rnnbench/kernels/generator/c.py writes, are made of.

// `p` and `gradient` begin at the layer's own weights, which stand in the order of the cell's table.
struct layer_call {
    const float *p;
    const float *constants;  // of the cell, in the order of its graph
    int T, N, H, M, inputs;  // M: numbers of the memory, of a cell that `remembers`
    int reverse;           // the steps are T-1..0
    int train;             // a backward pass will follow
    float *memory;         // the cell's `memory` floats, this layer's from its forward to its backward pass
    float *scratch;        // the cell's `scratch` floats, used by any layer while it is computed
    const float *x;        // (T, inputs, N); 0: the inputs are symbols
    const int32_t *symbols;  // (T, N): numbers of columns of weight_ih
    float *h;              // (T, H, N), steps h_step floats apart
    long h_step;
    const float *initial;  // (state rows, N): the state before the first step; 0: zeros
    float *last;           // (state rows, N): the state after the last step is written here, if not 0
    const float *mask;     // (H, N): the factors of recurrent dropout; 0 where the cell has none
    const float *zone;     // the factors of zoneout; 0 where the cell has none
    long zone_step;        // floats between its steps: states * H * N, or 0 where all steps have the same
    // Of the backward pass.
    const float *d_out;  // as h: the gradient at h from above
    float *d_x;          // (T, inputs, N): added to; 0: not wanted
    float *d_initial;    // (state rows, N): written; 0: not wanted
    float *gradient;     // written
};

// A weight of a layer, rows times columns in units of the hidden size, or of the memory's; 0 rows: one number.
enum { INPUTS = -1, VECTOR = 0 };  // as columns: as many as the layer has inputs; a vector
struct weight { int rows, columns, memory_rows, memory_columns; };

struct cell {
    int states;                   // blocks (H, N) that go from step to step, h first
    int remembers;                // whether the other state is a memory (M, N)
    int masked, zoned;            // whether it has recurrent dropout, zoneout
    int weights;
    const struct weight *weight;  // in the order of a trial's row
    // Floats for a call of these T, N, H, inputs, train; its pointers are not read.
    long (*memory)(const struct layer_call *), (*scratch)(const struct layer_call *);
    void (*forward)(const struct layer_call *), (*backward)(const struct layer_call *);
};

// Floats of a layer's weights, without the state before the first step where that is learned.
static long layer_parameters(const struct cell *cell, long H, long M, long inputs) {
    long sum = 0;
    for (int i = 0; i < cell->weights; i++) {
        const struct weight w = cell->weight[i];
        const long across = w.columns * (w.memory_columns ? M : H);
        const long columns = w.columns == INPUTS ? inputs : w.columns == VECTOR ? 1 : across;
        sum += (w.rows ? w.rows * (w.memory_rows ? M : H) : 1) * columns;
    }
    return sum;
}

// Rows of all states together.
static long state_rows(const struct cell *cell, long H, long M) {
    return H + (cell->states - 1) * (cell->remembers ? M : H);
}

static long up_16(long count) { return (count + 15) / 16 * 16; }  // whole vectors of any instruction set

// C (rows, N) = start + A's columns of numbers `symbols`, rows of A being `width` apart; the start is as in
// `product`.
static void look_up(long rows, long N, const float *a, long width, const int32_t *symbols, const float *bias,
                    int add, float *c) {
    for (long i = 0; i < rows; i++)
        for (long j = 0; j < N; j++)
            c[i * N + j] = (bias ? bias[i] : add ? c[i * N + j] : 0) + a[i * width + symbols[j]];
}

// Adds to the rows of numbers `symbols` of sums (symbols, wide) the rows of A (N, columns).
static void add_rows(long columns, long N, const int32_t *symbols, const float *a, long width, float *sums,
                     long wide) {
    for (long j = 0; j < N; j++)
        for (long i = 0; i < columns; i++) sums[symbols[j] * wide + i] += a[j * width + i];
}

// A part of a gradient, (rows, columns), of its transpose; `add`: it is added to what is there.
static void write_gradient(long rows, long columns, const float *a, long a_width, float *to, long width,
                           int add) {
    if (!add) transpose(columns, rows, a, a_width, to, width);
    for (long i = 0; add && i < rows; i++)
        for (long j = 0; j < columns; j++) to[i * width + j] += a[j * a_width + i];
}

static float sum_of(const float *numbers, long count) {
    double sum = 0;
    for (long i = 0; i < count; i++) sum += numbers[i];
    return sum;
}
