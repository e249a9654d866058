// Examples are bytes, one after the other; a network reads features, batch innermost.

typedef uint8_t bytes __attribute__((vector_size(16), aligned(1), may_alias));
typedef int32_t ints __attribute__((vector_size(64)));
typedef float floats __attribute__((vector_size(64)));

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

// x (features, N) = scale * byte + shift of the examples index[0..count); 0 in the columns after them.
static void gather(const uint8_t *data, long features, const int64_t *index, int count, int N, float scale,
                   float shift, float *x) {
    for (int at = 0; at < N; at += 16)
        for (long f = 0; f < features; f += 16) {
            bytes block[16] = {};
            const int rows = features - f < 16 ? features - f : 16;
            for (int j = 0; j < 16 && at + j < count; j++) {
                const uint8_t *from = data + index[at + j] * features + f;
                if (rows == 16) block[j] = *(const bytes *)from;
                else memcpy(&block[j], from, rows);
            }
            transpose_bytes(block);
            for (int i = 0; i < rows; i++) {
                const ints whole = __builtin_convertvector(block[i], ints);
                *(floats *)(x + (f + i) * N + at) = __builtin_convertvector(whole, floats) * scale + shift;
            }
        }
    if (count < N)
        for (long f = 0; f < features; f++)
            for (int j = count; j < N; j++) x[f * N + j] = 0;
}
