// The next token's logits of a GPT-2, for B sequences whose earlier tokens are in the cache.
//
// What gpt.py computes, with weights in fp32, bf16 or int8 and everything else in fp32. A step waits for memory: every
// weight is read once, in order, and is asked for before it is due. The compiler turns the vectors into AVX2, AVX-512 or
// NEON. Letters: B sequences, C width, V vocabulary, H heads, D = C / H, S tokens so far.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

typedef uint16_t bf16;
typedef std::vector<float> floats;

// BYTES of a weight decide its type, and that of embeddings, keys and values.
#if BYTES == 1
typedef int8_t Weight;
typedef float Kept;
#elif BYTES == 2
typedef bf16 Weight;
typedef bf16 Kept;
#else
typedef float Weight;
typedef float Kept;
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

#define UNROLL _Pragma("GCC unroll 16")
constexpr int64_t AHEAD = 2048;  // bytes of a matrix that memory is asked for before they are due
constexpr int64_t CHUNK = 512;   // columns whose numbers of several sequences stay in the nearest cache
constexpr int64_t BLOCK = 64;    // rows that a thread takes at a time

static inline float widen(float value) { return value; }

static inline float widen(bf16 value) {
    uint32_t bits = static_cast<uint32_t>(value) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

static inline float widen(int8_t value) { return value; }

static inline void narrow(float value, float *result) { *result = value; }

static inline void narrow(float value, bf16 *result) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    *result = value != value ? 0x7fc0 : static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline lanes load(const float *from) {
    lanes result;
    std::memcpy(&result, from, sizeof result);
    return result;
}

static inline lanes load(const bf16 *from) {
    halves own;
    std::memcpy(&own, from, sizeof own);
    const ints bits = __builtin_convertvector(own, ints) << 16;
    lanes result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

static inline float total(lanes values) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += values[i];
    return sum;
}

// What is read of a row at a time.
template <typename W> struct Line {
    static constexpr int parts = 2, size = parts * LANES;
    static inline void read(const W *row, lanes *to) { UNROLL for (int k = 0; k < parts; k++) to[k] = load(row + k * LANES); }
    static inline int64_t place(int64_t i) { return i; }
};

// Four bytes of a lane, widened by shifts: part k holds columns k, 4 + k, 8 + k ... of the line.
template <> struct Line<int8_t> {
    static constexpr int parts = 4, size = parts * LANES;
    static inline void read(const int8_t *row, lanes *to) {
        ints bits;
        std::memcpy(&bits, row, sizeof bits);
        UNROLL for (int k = 0; k < parts; k++) to[k] = __builtin_convertvector((bits << (24 - 8 * k)) >> 24, lanes);
    }
    static inline int64_t place(int64_t i) { return i / size * size + i % 4 * LANES + i % size / 4; }
};

// A row times the numbers of B sequences, `stride` apart and in the order of Line<W>::place.
template <typename W, int B> static inline void dot(const W *row, const float *x, int64_t stride, int64_t columns, float *sums) {
    typedef Line<W> line;
    constexpr int APART = B == 1 ? line::parts : 1;  // sums that do not wait for each other
    lanes parts[B][APART] = {};
    int64_t i = 0;
    for (; i + line::size <= columns; i += line::size) {
        lanes read[line::parts];
        __builtin_prefetch(reinterpret_cast<const char *>(row + i) + AHEAD);
        line::read(row + i, read);
        UNROLL for (int k = 0; k < line::parts; k++)
            UNROLL for (int b = 0; b < B; b++) parts[b][k % APART] += read[k] * load(x + b * stride + i + k * LANES);
    }
    UNROLL for (int b = 0; b < B; b++) {
        UNROLL for (int k = 1; k < APART; k++) parts[b][0] += parts[b][k];
        sums[b] += total(parts[b][0]);
        for (int64_t rest = i; rest < columns; rest++) sums[b] += widen(row[rest]) * x[b * stride + rest];
    }
}

template <typename W> static inline void dots(const W *row, const float *x, int64_t stride, int64_t columns, float *sums, int64_t B) {
    int64_t b = 0;
    for (; b + 8 <= B; b += 8) dot<W, 8>(row, x + b * stride, stride, columns, sums + b);
    for (; b + 4 <= B; b += 4) dot<W, 4>(row, x + b * stride, stride, columns, sums + b);
    for (; b + 2 <= B; b += 2) dot<W, 2>(row, x + b * stride, stride, columns, sums + b);
    for (; b < B; b++) dot<W, 1>(row, x + b * stride, stride, columns, sums + b);
}

template <typename W> struct Matrix {
    const W *weight;  // (rows, columns)
    const float *scale, *bias;  // (rows); may be null
};

// y = scale * (W x) + b; x (B, columns), y (B, rows).
template <typename W> static void linear(const Matrix<W> &matrix, const floats &x, floats &y, int64_t B, int threads) {
    const int64_t columns = x.size() / B, rows = y.size() / B;
    const int64_t whole = columns / Line<W>::size * Line<W>::size, wide = B == 1 ? columns : CHUNK;
    floats ordered(x);
    for (int64_t b = 0; b < B; b++)
        for (int64_t i = 0; i < whole; i++) ordered[b * columns + Line<W>::place(i)] = x[b * columns + i];
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t block = 0; block < rows; block += BLOCK) {
        const int64_t end = std::min(block + BLOCK, rows);
        floats sums((end - block) * B);
        for (int64_t first = 0; first < columns; first += wide)
            for (int64_t r = block; r < end; r++)
                dots(matrix.weight + r * columns + first, ordered.data() + first, columns, std::min(wide, columns - first),
                     &sums[(r - block) * B], B);
        for (int64_t r = block; r < end; r++)
            for (int64_t b = 0; b < B; b++)
                y[b * rows + r] = sums[(r - block) * B + b] * (matrix.scale ? matrix.scale[r] : 1) +
                                  (matrix.bias ? matrix.bias[r] : 0);
    }
}

static void layer_norm(const floats &x, const float *weight, const float *bias, float eps, floats &y, int64_t B) {
    const int64_t C = x.size() / B;
    for (int64_t b = 0; b < B; b++) {
        const float *own = &x[b * C];
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < C; i++) mean += own[i] / C;
        for (int64_t i = 0; i < C; i++) variance += (own[i] - mean) * (own[i] - mean) / C;
        const double scale = 1 / std::sqrt(variance + eps);
        for (int64_t i = 0; i < C; i++) y[b * C + i] = (own[i] - mean) * scale * weight[i] + bias[i];
    }
}

// One head: the query looks at keys and values `first` to S and takes their mean. keys, values (S, D), q and y (D).
template <typename E> static void attend(const E *keys, const E *values, const float *q, float *y, int64_t first, int64_t S, int64_t D) {
    floats weights(S);
    float most = -INFINITY, sum = 0;
    for (int64_t s = first; s < S; s++) {
        dot<E, 1>(keys + s * D, q, D, D, &weights[s]);
        weights[s] /= std::sqrt(static_cast<float>(D));
        most = std::max(most, weights[s]);
    }
    std::fill(y, y + D, 0.0f);
    for (int64_t s = first; s < S; s++) {
        const float weight = std::exp(weights[s] - most);
        sum += weight;
        for (int64_t d = 0; d < D; d++) y[d] += weight * widen(values[s * D + d]);
    }
    for (int64_t d = 0; d < D; d++) y[d] /= sum;
}

static inline lanes exponential(lanes x) {  // of numbers between -87 and 87, to 2 units in the last place
    const lanes turns = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // to the nearest integer
    const lanes r = (x - turns * 0.693359375f) + turns * 2.12194440e-4f;
    const lanes power = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r +
                         1.6666665459e-1f) * r + 5.0000001201e-1f;
    lanes result = power * r * r + r + 1.0f, scale;
    const ints bits = (__builtin_convertvector(turns, ints) + 127) << 23;
    std::memcpy(&scale, &bits, sizeof scale);
    return result * scale;
}

static void gelu(floats &values) {  // Hendrycks and Gimpel 2016, in the tanh form: x / (1 + exp(-2 u))
    for (size_t i = 0; i < values.size(); i += LANES) {
        const size_t count = std::min<size_t>(LANES, values.size() - i);
        lanes x = {};
        std::memcpy(&x, &values[i], count * sizeof(float));
        lanes u = -1.5957691216f * (x + 0.044715f * x * x * x);
        UNROLL for (int k = 0; k < LANES; k++) u[k] = std::max(-87.0f, std::min(87.0f, u[k]));
        const lanes y = x / (1.0f + exponential(u));
        std::memcpy(&values[i], &y, count * sizeof(float));
    }
}

template <typename T> static const T *take(const void *const *&next) { return static_cast<const T *>(*next++); }

template <typename W> static Matrix<W> take_matrix(const void *const *&next) {
    const W *weight = take<W>(next);
    const float *scale = take<float>(next), *bias = take<float>(next);
    return {weight, scale, bias};
}

// E: the type of embeddings, keys and values.
template <typename W, typename E>
static void step(const void *const *next, int64_t B, int64_t layers, int64_t C, int64_t H, int64_t V, float eps,
                 const int64_t *tokens, const int64_t *starts, int64_t position, E *keys, E *values, int64_t room,
                 float *logits, int threads) {
    const int64_t D = C / H, S = position + 1;
    const E *embeddings = take<E>(next), *positions = take<E>(next);
    const Matrix<W> head = take_matrix<W>(next);
    floats x(B * C), normed(B * C), qkv(B * 3 * C), mixed(B * C), wide(B * 4 * C), added(B * C), found(B * V);
    for (int64_t b = 0; b < B; b++)
        for (int64_t i = 0; i < C; i++)
            x[b * C + i] = widen(embeddings[tokens[b] * C + i]) + widen(positions[(position - starts[b]) * C + i]);
    for (int64_t layer = 0; layer < layers; layer++) {
        const float *weight = take<float>(next), *bias = take<float>(next);
        layer_norm(x, weight, bias, eps, normed, B);
        linear(take_matrix<W>(next), normed, qkv, B, threads);
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (int64_t at = 0; at < B * H; at++) {
            const int64_t b = at / H, h = at % H;
            E *k = keys + ((layer * B + b) * H + h) * room * D, *v = values + ((layer * B + b) * H + h) * room * D;
            const float *own = &qkv[b * 3 * C + h * D];
            for (int64_t d = 0; d < D; d++) {
                narrow(own[C + d], k + position * D + d);
                narrow(own[2 * C + d], v + position * D + d);
            }
            attend(k, v, own, &mixed[b * C + h * D], starts[b], S, D);
        }
        linear(take_matrix<W>(next), mixed, added, B, threads);
        for (int64_t i = 0; i < B * C; i++) x[i] += added[i];
        weight = take<float>(next), bias = take<float>(next);
        layer_norm(x, weight, bias, eps, normed, B);
        linear(take_matrix<W>(next), normed, wide, B, threads);
        gelu(wide);
        linear(take_matrix<W>(next), wide, added, B, threads);
        for (int64_t i = 0; i < B * C; i++) x[i] += added[i];
    }
    const float *weight = take<float>(next), *bias = take<float>(next);
    layer_norm(x, weight, bias, eps, normed, B);
    linear(head, normed, found, B, threads);
    std::copy(found.begin(), found.end(), logits);
}

// tensors: the embeddings of tokens and positions; the head; each block's first norm, qkv, out, second norm, up and down;
// the last norm. A matrix is its weight, the scales of its rows and its bias. tokens and starts (B): the token read, and
// the column where the sequence begins. keys, values: the cache, (layers, B, H, room, D), of which `position` are filled;
// those of the token are written. logits (B, V).
extern "C" void next_logits(const void *const *tensors, int64_t B, int64_t layers, int64_t C, int64_t H, int64_t V, float eps,
                            const int64_t *tokens, const int64_t *starts, int64_t position, void *keys, void *values,
                            int64_t room, float *logits, int threads) {
    step<Weight>(tensors, B, layers, C, H, V, eps, tokens, starts, position, static_cast<Kept *>(keys),
                 static_cast<Kept *>(values), room, logits, threads);
}
