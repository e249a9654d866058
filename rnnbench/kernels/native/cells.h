// The recurrent cells, elementwise: what happens between the matrix products of a step.
//
// A step's pre-activations are rows of `a`: first products and biases, then the gates, and in the
// backward pass the gradients at the pre-activations. A cell is its spans of rows, and two functions
// over (hidden, N) numbers. A new cell is these three, and one line in CELLS.

enum { LSTM, GRU, RNN_TANH, RNN_RELU };

// exp(x) to 1e-7 relative (Cephes' polynomial); x is held within what float can say, nan stays nan.
INLINE float exp_(float x) {
    const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the last bits
    union { float f; int32_t i; } n;
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    n.f = x * 1.44269504f + round;
    const float whole = n.f - round;
    const float r = x - whole * 0.693359375f + whole * 2.12194440e-4f;  // x - whole * ln 2
    const float p = 1 + r + r * r * (0.5f + r * (1.6666665e-1f + r * (4.1665796e-2f + r * (8.3334519e-3f +
                    r * (1.3981999e-3f + r * 1.9875691e-4f)))));
    n.i = (n.i << 23) + 0x3f800000;
    return p * n.f;
}

INLINE float sigmoid(float x) { return 1 / (1 + exp_(-x)); }

// tanh(x) to a few units in the last place, as the rational function of Eigen and XLA.
INLINE float tanh_(float x) {
    x = x > 7.90531111f ? 7.90531111f : x;
    x = x < -7.90531111f ? -7.90531111f : x;
    const float s = x * x;
    const float p = x * (4.89352456e-3f + s * (6.37261929e-4f + s * (1.48572236e-5f + s * (5.12229709e-8f +
                    s * (-8.60467152e-11f + s * (2.00018790e-13f + s * -2.76076848e-16f))))));
    const float q = 4.89352519e-3f + s * (2.26843463e-3f + s * (1.18534706e-4f + s * 1.19825839e-6f));
    return p / q;
}

// One step of one layer: (hidden, N) numbers each, `a` as many times that as the cell has rows.
struct step {
    float *a;
    const float *c_before, *h_before;
    float *c, *tanh_c, *h;
    const float *d_out;  // gradient at h from above
    float *d_h, *d_c;    // and from the step that came after; then for the one before, past the products
};

// No iteration of the next loop touches what another one reads.
#if defined(__clang__)
#define EACH _Pragma("clang loop vectorize(assume_safety)")
#else
#define EACH _Pragma("GCC ivdep")
#endif

// i f g o of the LSTM (Gers et al. 2000): c = f * c- + i * g, h = o * tanh(c).
static void lstm_forward(long n, struct step s) {
    float *a = s.a;
    EACH for (long e = 0; e < n; e++) {
        const float i = sigmoid(a[e]), f = sigmoid(a[n + e]), g = tanh_(a[2 * n + e]), o = sigmoid(a[3 * n + e]);
        const float c = f * s.c_before[e] + i * g, t = tanh_(c);
        a[e] = i, a[n + e] = f, a[2 * n + e] = g, a[3 * n + e] = o;
        s.c[e] = c, s.tanh_c[e] = t, s.h[e] = o * t;
    }
}

static void lstm_backward(long n, struct step s) {
    float *a = s.a;
    EACH for (long e = 0; e < n; e++) {
        const float i = a[e], f = a[n + e], g = a[2 * n + e], o = a[3 * n + e], t = s.tanh_c[e];
        const float dh = s.d_h[e] + s.d_out[e], dc = s.d_c[e] + dh * o * (1 - t * t);
        a[e] = dc * g * i * (1 - i);
        a[n + e] = dc * s.c_before[e] * f * (1 - f);
        a[2 * n + e] = dc * i * (1 - g * g);
        a[3 * n + e] = dh * t * o * (1 - o);
        s.d_c[e] = dc * f;
    }
}

// r z n of the GRU (Cho et al. 2014, the reset gate after the recurrent product, as torch has it), and
// the candidate's recurrent product u: n = tanh(a + r * u), h = (1 - z) * n + z * h-.
static void gru_forward(long n, struct step s) {
    float *a = s.a;
    EACH for (long e = 0; e < n; e++) {
        const float r = sigmoid(a[e]), z = sigmoid(a[n + e]), new = tanh_(a[2 * n + e] + r * a[3 * n + e]);
        a[e] = r, a[n + e] = z, a[2 * n + e] = new;
        s.h[e] = new + z * (s.h_before[e] - new);
    }
}

static void gru_backward(long n, struct step s) {
    float *a = s.a;
    EACH for (long e = 0; e < n; e++) {
        const float r = a[e], z = a[n + e], new = a[2 * n + e], u = a[3 * n + e];
        const float dh = s.d_h[e] + s.d_out[e], dn = dh * (1 - z) * (1 - new * new);
        a[e] = dn * u * r * (1 - r);
        a[n + e] = dh * (s.h_before[e] - new) * z * (1 - z);
        a[2 * n + e] = dn;
        a[3 * n + e] = dn * r;
        s.d_h[e] = dh * z;
    }
}

// The plain recurrence (Elman 1990).
static void tanh_forward(long n, struct step s) {
    EACH for (long e = 0; e < n; e++) s.h[e] = tanh_(s.a[e]);
}

static void tanh_backward(long n, struct step s) {
    EACH for (long e = 0; e < n; e++) s.a[e] = (s.d_h[e] + s.d_out[e]) * (1 - s.h[e] * s.h[e]);
}

static void relu_forward(long n, struct step s) {
    EACH for (long e = 0; e < n; e++) s.h[e] = s.a[e] < 0 ? 0 : s.a[e];  // nan is not below 0: it stays
}

static void relu_backward(long n, struct step s) {
    EACH for (long e = 0; e < n; e++) s.a[e] = s.h[e] > 0 ? s.d_h[e] + s.d_out[e] : 0;
}

// Rows of `a` that belong together, in units of the hidden size: where they stand, how many, and
// which rows of weight_ih and weight_hh make them (-1: none do).
struct span { int row, rows, input, recurrent; };

struct cell {
    int gates;  // in torch's weights
    int rows;   // of `a`, in units of the hidden size
    int spans;
    struct span span[3];
    int states;  // 1 if there is a c beside h
    int carries;  // whether the backward pass leaves in d_h what goes past the products
    void (*forward)(long, struct step);
    void (*backward)(long, struct step);
};

static const struct cell CELLS[] = {
    [LSTM] = {4, 4, 1, {{0, 4, 0, 0}}, 1, 0, lstm_forward, lstm_backward},
    [GRU] = {3, 4, 3, {{0, 2, 0, 0}, {2, 1, 2, -1}, {3, 1, -1, 2}}, 0, 1, gru_forward, gru_backward},
    [RNN_TANH] = {1, 1, 1, {{0, 1, 0, 0}}, 0, 0, tanh_forward, tanh_backward},
    [RNN_RELU] = {1, 1, 1, {{0, 1, 0, 0}}, 0, 0, relu_forward, relu_backward},
};
