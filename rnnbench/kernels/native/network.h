// A chunk of a minibatch through the whole network of one trial, forward and backward.
//
// A chunk is N columns: its examples, then columns of zeros up to a multiple of 16, whose gradient is
// zero. What a chunk gives does not depend on which thread computes it, nor on what else is computed.

enum { CHUNK = 64 };  // examples: a layer's activations of so many fit the core's own cache

// What the networks of a stack have in common; laid out as `Shape` in compiled.py.
struct shape {
    int64_t cell, layers, directions, hidden, input, steps, classes, mean;  // mean: readout over time
};

// One layer in one direction: where its weights stand in a trial's row, and its activations.
struct level {
    int inputs;  // features it reads
    int reverse;
    long w_ih, w_hh, b_ih, b_hh;
    float *a;          // (T, rows * hidden, N)
    float *c, *tanh_c;  // (T, hidden, N)
};

// All that one thread needs for one chunk; the numbers lie in one block of memory.
struct work {
    struct level *levels;  // layers * directions
    float **out;    // of each layer, (T, width, N)
    float **inputs;  // of each layer, (T, features, N): the data, or the layer below after dropout
    float *d_out[2];  // gradient at a layer's output, and at the one below
    float *d_h, *d_c;  // (hidden, N)
    float *zero;       // (hidden, N)
    float *bias;       // (rows * hidden)
    float *summary, *d_summary;  // (width, N)
    float *logits;              // (classes, N), then their gradient
    // Of the backward pass, batch and rows exchanged: a step's gradients (N, rows * hidden), the
    // weights, and the gradients of the weights, one block for each of a cell's spans and kinds.
    float *turned, *back[3], *down[3], *d_input[3], *d_recurrent[3], *d_bias, *d_head;
    long head_w, head_b, parameters;
};

static int width_of(const struct shape *s) { return s->hidden * s->directions; }

static long up_16(long count) { return (count + 15) / 16 * 16; }  // whole vectors of any instruction set

static int padded(int batch) { return batch < CHUNK ? up_16(batch) : CHUNK; }

// Lay out a thread's memory for chunks of N columns from `base` on; how many floats it takes. With
// base = 0 nothing but the sizes and the offsets of the weights is meaningful.
static size_t lay_out(const struct shape *s, int N, int train, int dropout, struct work *w, float *base) {
    const struct cell *cell = &CELLS[s->cell];
    const long H = s->hidden, T = s->steps, width = width_of(s), keep = train ? T : 2;
    float *next = base;
#define TAKE(name, count) (name = next, next += up_16(count))
    long offset = 0;
    TAKE(w->inputs[0], T * s->input * N);
    for (int layer = 0; layer < s->layers; layer++) {
        TAKE(w->out[layer], T * width * N);
        if (layer && dropout) TAKE(w->inputs[layer], T * width * N);
        else if (layer) w->inputs[layer] = w->out[layer - 1];
        for (int d = 0; d < s->directions; d++) {
            struct level *l = &w->levels[layer * s->directions + d];
            l->inputs = layer ? width : s->input;
            l->reverse = d;
            l->w_ih = offset, offset += cell->gates * H * l->inputs;
            l->w_hh = offset, offset += cell->gates * H * H;
            l->b_ih = offset, offset += cell->gates * H;
            l->b_hh = offset, offset += cell->gates * H;
            TAKE(l->a, keep * cell->rows * H * N);
            if (cell->states) TAKE(l->c, keep * H * N), TAKE(l->tanh_c, keep * H * N);
        }
    }
    w->head_w = offset, offset += s->classes * width;
    w->head_b = offset, offset += s->classes;
    w->parameters = offset;
    for (int i = 0; i < 2 && train; i++) TAKE(w->d_out[i], T * width * N);
    TAKE(w->d_h, H * N);
    TAKE(w->d_c, H * N);
    TAKE(w->zero, H * N);
    TAKE(w->bias, cell->rows * H);
    TAKE(w->summary, width * N);
    TAKE(w->d_summary, width * N);
    TAKE(w->logits, s->classes * N);
    if (train) {
        const long inputs = s->input > width ? s->input : width, all = up_16(cell->rows * H) + 16;
        const long wide = up_16(s->classes);
        TAKE(w->turned, N * (all > wide ? all : wide));
        TAKE(w->d_head, width * wide);
        TAKE(w->d_bias, all > wide ? all : wide);
        for (int k = 0; k < cell->spans; k++) {
            const long rows = cell->span[k].rows * H;
            TAKE(w->back[k], rows * H);
            TAKE(w->down[k], rows * inputs);
            TAKE(w->d_recurrent[k], H * up_16(rows));
            TAKE(w->d_input[k], inputs * up_16(rows));
        }
    }
#undef TAKE
    if (base) memset(w->zero, 0, sizeof(float) * H * N);
    // Columns between the rows and a whole vector are computed with, their results never used.
    if (base && train) memset(w->turned, 0, sizeof(float) * N * up_16(cell->rows * H));
    return next - base;
}

// Where step `t` stands in an activation buffer: all steps are kept for the backward pass, else two.
static long slot(int t, int train) { return train ? t : t & 1; }

static void level_forward(const struct shape *s, struct work *w, const struct level *l, const float *p,
                          const float *x, float *h, int N, int train) {
    const struct cell *cell = &CELLS[s->cell];
    const int H = s->hidden, T = s->steps, width = width_of(s);
    const long n = (long)H * N;
    for (int k = 0; k < cell->spans; k++) {
        const struct span *span = &cell->span[k];
        for (int i = 0; i < span->rows * H; i++)
            w->bias[span->row * H + i] = (span->input < 0 ? 0 : p[l->b_ih + span->input * H + i]) +
                                         (span->recurrent < 0 ? 0 : p[l->b_hh + span->recurrent * H + i]);
    }
    for (int done = 0; done < T; done++) {
        const int t = l->reverse ? T - 1 - done : done, before = l->reverse ? t + 1 : t - 1;
        float *a = l->a + slot(t, train) * cell->rows * n;
        const float *h_before = done ? h + (long)before * width * N : w->zero;
        for (int k = 0; k < cell->spans; k++) {
            const struct span *span = &cell->span[k];
            struct factor f[2];
            int count = 0;
            if (span->input >= 0)
                f[count++] = (struct factor){p + l->w_ih + (long)span->input * H * l->inputs, l->inputs, 1,
                                             x + (long)t * l->inputs * N, N, l->inputs};
            if (span->recurrent >= 0 && done)
                f[count++] = (struct factor){p + l->w_hh + (long)span->recurrent * H * H, H, 1, h_before, N, H};
            product(span->rows * H, N, f, count, w->bias + span->row * H, 0, a + span->row * n, N);
        }
        struct step step = {.a = a, .h_before = h_before, .h = h + (long)t * width * N};
        if (cell->states) {
            step.c_before = done ? l->c + slot(before, train) * n : w->zero;
            step.c = l->c + slot(t, train) * n;
            step.tanh_c = l->tanh_c + slot(t, train) * n;
        }
        cell->forward(n, step);
    }
}

// Writes the layer's part of gradient (P,), and adds to d_x (T, inputs, N) where that is asked for.
static void level_backward(const struct shape *s, struct work *w, const struct level *l, const float *p,
                           const float *x, const float *h, const float *d_out, float *gradient, float *d_x,
                           int N) {
    const struct cell *cell = &CELLS[s->cell];
    const int H = s->hidden, T = s->steps, width = width_of(s), I = l->inputs;
    const long n = (long)H * N, h_step = (long)width * N, all = up_16(cell->rows * H) + 16;
    struct factor down[2], back[2];  // to the layer below, to the step before
    int downs = 0, backs = 0;
    for (int k = 0; k < cell->spans; k++) {
        const struct span *span = &cell->span[k];
        const int rows = span->rows * H;
        if (span->input >= 0 && d_x) {
            transpose(rows, I, p + l->w_ih + (long)span->input * H * I, I, w->down[k], rows);
            down[downs++] = (struct factor){w->down[k], rows, 1, 0, N, rows};
        }
        if (span->recurrent >= 0) {
            transpose(rows, H, p + l->w_hh + (long)span->recurrent * H * H, H, w->back[k], rows);
            back[backs++] = (struct factor){w->back[k], rows, 1, 0, N, rows};
        }
        memset(w->d_input[k], 0, sizeof(float) * I * up_16(rows));
        memset(w->d_recurrent[k], 0, sizeof(float) * H * up_16(rows));
    }
    memset(w->d_bias, 0, sizeof(float) * all);
    memset(w->d_h, 0, sizeof(float) * n);
    memset(w->d_c, 0, sizeof(float) * n);
    for (int left = T - 1; left >= 0; left--) {
        const int t = l->reverse ? T - 1 - left : left, before = l->reverse ? t + 1 : t - 1;
        float *a = l->a + t * cell->rows * n;
        struct step step = {.a = a, .h = (float *)h + t * h_step, .d_out = d_out + t * h_step,
                            .d_h = w->d_h, .d_c = w->d_c,
                            .h_before = left ? h + before * h_step : w->zero};
        if (cell->states) {
            step.c_before = left ? l->c + before * n : w->zero;
            step.tanh_c = l->tanh_c + t * n;
        }
        cell->backward(n, step);
        transpose(cell->rows * H, N, a, N, w->turned, all);
        column_sums(N, all, w->turned, w->d_bias);
        downs = backs = 0;
        for (int k = 0; k < cell->spans; k++) {
            const struct span *span = &cell->span[k];
            const int rows = span->rows * H, wide = up_16(rows);
            const float *turned = w->turned + span->row * H;
            if (span->input >= 0) {
                const struct factor f = {x + (long)t * I * N, N, 1, turned, all, N};
                product(I, wide, &f, 1, 0, 1, w->d_input[k], wide);
                if (d_x) down[downs++].b = a + span->row * n;
            }
            if (span->recurrent >= 0) {
                const struct factor f = {step.h_before, N, 1, turned, all, N};
                if (left) product(H, wide, &f, 1, 0, 1, w->d_recurrent[k], wide);
                back[backs++].b = a + span->row * n;
            }
        }
        if (left) product(H, N, back, backs, 0, cell->carries, w->d_h, N);
        if (d_x) product(I, N, down, downs, 0, 1, d_x + (long)t * I * N, N);
    }
    for (int k = 0; k < cell->spans; k++) {
        const struct span *span = &cell->span[k];
        const int rows = span->rows * H, wide = up_16(rows);
        const float *bias = w->d_bias + span->row * H;
        if (span->input >= 0) {
            transpose(I, rows, w->d_input[k], wide, gradient + l->w_ih + (long)span->input * H * I, I);
            memcpy(gradient + l->b_ih + span->input * H, bias, sizeof(float) * rows);
        }
        if (span->recurrent >= 0) {
            transpose(H, rows, w->d_recurrent[k], wide, gradient + l->w_hh + (long)span->recurrent * H * H, H);
            memcpy(gradient + l->b_hh + span->recurrent * H, bias, sizeof(float) * rows);
        }
    }
}

// Logits (classes, N) of the chunk in w->inputs[0]. `mask`: the dropout factors of the first gap
// between layers, (T, width, columns) from column `first` on, the next gap's `gap` floats further.
static void network_forward(const struct shape *s, struct work *w, const float *p, int N, int train,
                            const float *mask, long gap, int columns, int first, int count) {
    const int H = s->hidden, T = s->steps, width = width_of(s);
    for (int layer = 0; layer < s->layers; layer++) {
        if (layer && mask) {
            const float *factors = mask + (layer - 1) * gap + first;
            for (long row = 0; row < (long)T * width; row++)
                for (int j = 0; j < N; j++)
                    w->inputs[layer][row * N + j] =
                        j < count ? w->out[layer - 1][row * N + j] * factors[row * columns + j] : 0;
        }
        for (int d = 0; d < s->directions; d++)
            level_forward(s, w, &w->levels[layer * s->directions + d], p, w->inputs[layer],
                          w->out[layer] + (long)d * H * N, N, train);
    }
    const float *h = w->out[s->layers - 1];
    const long size = (long)width * N, half = (long)H * N;
    if (s->mean) {
        memset(w->summary, 0, sizeof(float) * size);
        for (int t = 0; t < T; t++)
            for (long e = 0; e < size; e++) w->summary[e] += h[t * size + e];
        for (long e = 0; e < size; e++) w->summary[e] /= T;
    } else {  // each direction after its own last step
        memcpy(w->summary, h + (T - 1) * size, sizeof(float) * half);
        if (s->directions == 2) memcpy(w->summary + half, h + half, sizeof(float) * half);
    }
    const struct factor f = {p + w->head_w, width, 1, w->summary, N, width};
    product(s->classes, N, &f, 1, p + w->head_b, 0, w->logits, N);
}

// The chunk's part of the gradient (P,), from w->logits, which holds the gradient there by now.
static void network_backward(const struct shape *s, struct work *w, const float *p, int N, float *gradient,
                             const float *mask, long gap, int columns, int first, int count) {
    const int H = s->hidden, T = s->steps, width = width_of(s), top = s->layers - 1;
    const long size = (long)width * N, half = (long)H * N;
    const int classes = s->classes, wide = up_16(classes);
    transpose(classes, N, w->logits, N, w->turned, wide);
    const struct factor outer = {w->summary, N, 1, w->turned, wide, N};
    product(width, wide, &outer, 1, 0, 0, w->d_head, wide);
    transpose(width, classes, w->d_head, wide, gradient + w->head_w, width);
    memset(w->d_bias, 0, sizeof(float) * wide);
    column_sums(N, wide, w->turned, w->d_bias);
    memcpy(gradient + w->head_b, w->d_bias, sizeof(float) * classes);
    const struct factor f = {p + w->head_w, 1, width, w->logits, N, classes};
    product(width, N, &f, 1, 0, 0, w->d_summary, N);
    float *d_out = w->d_out[0], *d_in = w->d_out[1];
    if (s->mean) {
        for (long e = 0; e < size; e++) w->d_summary[e] /= T;
        for (int t = 0; t < T; t++) memcpy(d_out + t * size, w->d_summary, sizeof(float) * size);
    } else {
        memset(d_out, 0, sizeof(float) * T * size);
        memcpy(d_out + (T - 1) * size, w->d_summary, sizeof(float) * half);
        if (s->directions == 2) memcpy(d_out + half, w->d_summary + half, sizeof(float) * half);
    }
    for (int layer = top; layer >= 0; layer--) {
        if (layer) memset(d_in, 0, sizeof(float) * T * size);
        for (int d = 0; d < s->directions; d++)
            level_backward(s, w, &w->levels[layer * s->directions + d], p, w->inputs[layer],
                           w->out[layer] + (long)d * H * N, d_out + (long)d * H * N, gradient,
                           layer ? d_in : 0, N);
        if (layer && mask) {
            const float *factors = mask + (layer - 1) * gap + first;
            for (long row = 0; row < (long)T * width; row++)
                for (int j = 0; j < N; j++) d_in[row * N + j] *= j < count ? factors[row * columns + j] : 0;
        }
        float *swap = d_out;
        d_out = d_in, d_in = swap;
    }
}
