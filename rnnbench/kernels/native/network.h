// The whole network of one trial on a chunk of a minibatch, forward and backward.
//
// A chunk is N columns: its examples, then columns of zeros up to a multiple of 16, whose gradient is
// zero. The numbers of a chunk are the same whichever thread computes it, and whatever else is computed.

enum { CHUNK = 64 };  // examples: a layer's activations of so many fit the core's own cache

// What the networks of a stack have in common; laid out as `Shape` in compiled.py.
struct shape {
    int64_t cell, layers, directions, hidden, input, steps, classes, mean;  // mean: readout over time
};

// One layer in one direction.
struct level {
    int inputs;   // features that it reads
    int reverse;
    long weights;   // where its weights begin in a trial's row
    float *memory;  // from its forward to its backward pass
};

// All that one thread needs for one chunk; the numbers lie in one block of memory.
struct work {
    struct level *levels;  // layers * directions
    float **out;    // of each layer, (T, width, N)
    float **inputs;  // of each layer, (T, features, N): the data, or the layer below after dropout
    float *d_out[2];  // gradient at a layer's output, and at the one below
    float *scratch;    // of whichever layer is computed
    float *summary, *d_summary;  // (width, N)
    float *logits;              // (classes, N), then their gradient
    // Of the head's backward pass, batch and rows exchanged: the gradient at the logits (N, classes), and
    // the gradients of its weights.
    float *turned, *d_head, *d_bias;
    long head_w, head_b, parameters;
};

static int width_of(const struct shape *s) { return s->hidden * s->directions; }

static int padded(int batch) { return batch < CHUNK ? up_16(batch) : CHUNK; }

// Lay out a thread's memory for chunks of N columns from `base` on; how many floats it takes. With
// base = 0 nothing but the sizes and the offsets of the weights is meaningful.
static size_t lay_out(const struct shape *s, int N, int train, int dropout, struct work *w, float *base) {
    const struct cell *cell = &CELLS[s->cell];
    const long H = s->hidden, T = s->steps, width = width_of(s), wide = up_16(s->classes);
    float *next = base;
#define TAKE(name, count) (name = next, next += up_16(count))
    long offset = 0, scratch = 0;
    TAKE(w->inputs[0], T * s->input * N);
    for (int layer = 0; layer < s->layers; layer++) {
        TAKE(w->out[layer], T * width * N);
        if (layer && dropout) TAKE(w->inputs[layer], T * width * N);
        else if (layer) w->inputs[layer] = w->out[layer - 1];
        for (int d = 0; d < s->directions; d++) {
            struct level *l = &w->levels[layer * s->directions + d];
            const struct layer_call call = {.T = T, .N = N, .H = H, .inputs = layer ? width : s->input,
                                            .train = train};
            const long needs = layer_scratch(cell, &call);
            l->inputs = call.inputs;
            l->reverse = d;
            l->weights = offset, offset += layer_parameters(cell, H, l->inputs);
            TAKE(l->memory, layer_memory(cell, &call));
            scratch = needs > scratch ? needs : scratch;
        }
    }
    TAKE(w->scratch, scratch);
    w->head_w = offset, offset += s->classes * width;
    w->head_b = offset, offset += s->classes;
    w->parameters = offset;
    for (int i = 0; i < 2 && train; i++) TAKE(w->d_out[i], T * width * N);
    TAKE(w->summary, width * N);
    TAKE(w->d_summary, width * N);
    TAKE(w->logits, s->classes * N);
    if (train) {
        TAKE(w->turned, N * wide);
        TAKE(w->d_head, width * wide);
        TAKE(w->d_bias, wide);
    }
#undef TAKE
    // Columns between the classes and a whole vector are computed with, their results never used.
    if (base && train) memset(w->turned, 0, sizeof(float) * N * wide);
    return next - base;
}

// The layer and direction of which `l` is, on the activations of a chunk.
static struct layer_call call_of(const struct shape *s, const struct work *w, const struct level *l,
                                 const float *p, int N, int train) {
    const int number = l - w->levels, layer = number / s->directions;
    const long at = (long)(number % s->directions) * s->hidden * N;
    return (struct layer_call){
        .p = p + l->weights, .T = s->steps, .N = N, .H = s->hidden, .inputs = l->inputs,
        .reverse = l->reverse, .train = train, .memory = l->memory, .scratch = w->scratch,
        .x = w->inputs[layer], .h = w->out[layer] + at, .h_step = (long)width_of(s) * N};
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
        for (int d = 0; d < s->directions; d++) {
            const struct level *l = &w->levels[layer * s->directions + d];
            const struct layer_call call = call_of(s, w, l, p, N, train);
            layer_forward(&CELLS[s->cell], &call);
        }
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
        for (int d = 0; d < s->directions; d++) {
            const struct level *l = &w->levels[layer * s->directions + d];
            struct layer_call call = call_of(s, w, l, p, N, 1);
            call.d_out = d_out + (long)d * H * N;
            call.d_x = layer ? d_in : 0;
            call.gradient = gradient + l->weights;
            layer_backward(&CELLS[s->cell], &call);
        }
        if (layer && mask) {
            const float *factors = mask + (layer - 1) * gap + first;
            for (long row = 0; row < (long)T * width; row++)
                for (int j = 0; j < N; j++) d_in[row * N + j] *= j < count ? factors[row * columns + j] : 0;
        }
        float *swap = d_out;
        d_out = d_in, d_in = swap;
    }
}
