// The recurrent cells, elementwise: what happens between the matrix products of a step.
//
// A step's pre-activations are rows of `a`: first products and biases, then the gates, and in the
// backward pass the gradients at the pre-activations. A cell is its spans of rows, and two functions
// over (hidden, N) numbers. A new cell is these three, and one line in CELLS.

enum { LSTM, GRU, RNN_TANH, RNN_RELU };

// One step of one layer: (hidden, N) numbers each, `a` as many times that as the cell has rows.
struct step {
    float *a;
    const float *c_before, *h_before;
    float *c, *tanh_c, *h;
    const float *d_out;  // gradient at h from above
    float *d_h, *d_c;    // and from the step that came after; then for the one before, past the products
};

// i f g o of the LSTM (Gers et al. 2000): c = f * c- + i * g, h = o * tanh(c).
static void lstm_forward(long n, struct step s) {
    float *i_ = s.a, *f_ = s.a + n, *g_ = s.a + 2 * n, *o_ = s.a + 3 * n;
    for (long e = 0; e < n; e += LANES) {
        const vec i = sigmoid(load(i_ + e)), f = sigmoid(load(f_ + e)), g = vec_tanh(load(g_ + e));
        const vec o = sigmoid(load(o_ + e)), c = f * load(s.c_before + e) + i * g, t = vec_tanh(c);
        store(i_ + e, i), store(f_ + e, f), store(g_ + e, g), store(o_ + e, o);
        store(s.c + e, c), store(s.tanh_c + e, t), store(s.h + e, o * t);
    }
}

static void lstm_backward(long n, struct step s) {
    float *i_ = s.a, *f_ = s.a + n, *g_ = s.a + 2 * n, *o_ = s.a + 3 * n;
    for (long e = 0; e < n; e += LANES) {
        const vec i = load(i_ + e), f = load(f_ + e), g = load(g_ + e), o = load(o_ + e), t = load(s.tanh_c + e);
        const vec dh = load(s.d_h + e) + load(s.d_out + e), dc = load(s.d_c + e) + dh * o * (1 - t * t);
        store(i_ + e, dc * g * i * (1 - i));
        store(f_ + e, dc * load(s.c_before + e) * f * (1 - f));
        store(g_ + e, dc * i * (1 - g * g));
        store(o_ + e, dh * t * o * (1 - o));
        store(s.d_c + e, dc * f);
    }
}

// r z n of the GRU (Cho et al. 2014, the reset gate after the recurrent product, as torch has it), and
// the candidate's recurrent product u: n = tanh(a + r * u), h = (1 - z) * n + z * h-.
static void gru_forward(long n, struct step s) {
    float *r_ = s.a, *z_ = s.a + n, *n_ = s.a + 2 * n, *u_ = s.a + 3 * n;
    for (long e = 0; e < n; e += LANES) {
        const vec r = sigmoid(load(r_ + e)), z = sigmoid(load(z_ + e));
        const vec new = vec_tanh(load(n_ + e) + r * load(u_ + e));
        store(r_ + e, r), store(z_ + e, z), store(n_ + e, new);
        store(s.h + e, new + z * (load(s.h_before + e) - new));
    }
}

static void gru_backward(long n, struct step s) {
    float *r_ = s.a, *z_ = s.a + n, *n_ = s.a + 2 * n, *u_ = s.a + 3 * n;
    for (long e = 0; e < n; e += LANES) {
        const vec r = load(r_ + e), z = load(z_ + e), new = load(n_ + e), u = load(u_ + e);
        const vec dh = load(s.d_h + e) + load(s.d_out + e), dn = dh * (1 - z) * (1 - new * new);
        store(r_ + e, dn * u * r * (1 - r));
        store(z_ + e, dh * (load(s.h_before + e) - new) * z * (1 - z));
        store(n_ + e, dn);
        store(u_ + e, dn * r);
        store(s.d_h + e, dh * z);
    }
}

// The plain recurrence (Elman 1990).
static void tanh_forward(long n, struct step s) {
    for (long e = 0; e < n; e += LANES) store(s.h + e, vec_tanh(load(s.a + e)));
}

static void tanh_backward(long n, struct step s) {
    for (long e = 0; e < n; e += LANES) {
        const vec h = load(s.h + e);
        store(s.a + e, (load(s.d_h + e) + load(s.d_out + e)) * (1 - h * h));
    }
}

static void relu_forward(long n, struct step s) {
    for (long e = 0; e < n; e += LANES) store(s.h + e, at_least(0, load(s.a + e)));
}

static void relu_backward(long n, struct step s) {
    for (long e = 0; e < n; e += LANES) {
        const ivec d_h = (ivec)(load(s.d_h + e) + load(s.d_out + e));
        store(s.a + e, (vec)(d_h & (load(s.h + e) > 0)));
    }
}

// Rows of `a` that belong together, in units of the hidden size: where they stand, how many, and
// which rows of weight_ih and weight_hh make them (-1: none do).
struct span { int row, rows, input, recurrent; };

// A weight of a layer, rows times columns in units of the hidden size.
enum { INPUTS = -1, VECTOR = 0 };  // as columns: as many as the layer has inputs; a vector
struct weight { int rows, columns; };

struct cell {
    const char *name;
    int states;  // numbers of a unit that go from step to step, h first
    int masked, zoned;  // whether it has recurrent dropout, zoneout
    int weights;
    struct weight weight[4];  // in the order of a trial's row
    int gates;  // in torch's weights
    int rows;   // of `a`, in units of the hidden size
    int spans;
    struct span span[3];
    int carries;  // whether the backward pass leaves in d_h what goes past the products
    void (*forward)(long, struct step);
    void (*backward)(long, struct step);
};

static const struct cell CELLS[] = {
    [LSTM] = {"lstm", 2, 0, 0, 4, {{4, INPUTS}, {4, 1}, {4, VECTOR}, {4, VECTOR}}, 4, 4, 1, {{0, 4, 0, 0}}, 0, lstm_forward, lstm_backward},
    [GRU] = {"gru", 1, 0, 0, 4, {{3, INPUTS}, {3, 1}, {3, VECTOR}, {3, VECTOR}}, 3, 4, 3, {{0, 2, 0, 0}, {2, 1, 2, -1}, {3, 1, -1, 2}}, 1,
             gru_forward, gru_backward},
    [RNN_TANH] = {"rnn", 1, 0, 0, 4, {{1, INPUTS}, {1, 1}, {1, VECTOR}, {1, VECTOR}}, 1, 1, 1, {{0, 1, 0, 0}}, 0, tanh_forward, tanh_backward},
    [RNN_RELU] = {"rnn_relu", 1, 0, 0, 4, {{1, INPUTS}, {1, 1}, {1, VECTOR}, {1, VECTOR}}, 1, 1, 1, {{0, 1, 0, 0}}, 0, relu_forward,
                  relu_backward},
};
