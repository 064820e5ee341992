// The next token's logits of a GPT-2 in bf16, for one sequence whose earlier tokens are in the cache.
//
// What gpt.py computes, with sums and the residual stream in fp32. A step waits for memory: every weight is read once,
// in order, and is asked for before it is due. Letters: C width, V vocabulary, H heads, D = C / H, S tokens so far.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

typedef uint16_t bf16;
typedef std::vector<float> floats;

constexpr int64_t AHEAD = 1024;  // numbers of a matrix that memory is asked for before they are due
constexpr int64_t LINE = 32;     // numbers that memory brings at a time

static inline float widen(bf16 value) {
    uint32_t bits = static_cast<uint32_t>(value) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

static inline bf16 narrow(float value) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return value != value ? 0x7fc0 : static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static std::vector<bf16> narrow(const floats &values) {
    std::vector<bf16> result(values.size());
    for (size_t i = 0; i < values.size(); i++) result[i] = narrow(values[i]);
    return result;
}

static inline float dot(const bf16 *row, const bf16 *x, int64_t columns) {
    int64_t i = 0;
    float sum = 0;
#if defined(__AVX512BF16__)
    __m512 sums = _mm512_setzero_ps();
    for (; i + LINE <= columns; i += LINE) {
        __builtin_prefetch(row + i + AHEAD);
        sums = _mm512_dpbf16_ps(sums, (__m512bh)_mm512_loadu_si512(row + i), (__m512bh)_mm512_loadu_si512(x + i));
    }
    sum = _mm512_reduce_add_ps(sums);
#else
    float sums[LINE] = {};
    for (; i + LINE <= columns; i += LINE) {
        __builtin_prefetch(row + i + AHEAD);
        for (int64_t k = 0; k < LINE; k++) sums[k] += widen(row[i + k]) * widen(x[i + k]);
    }
    for (float part : sums) sum += part;
#endif
    for (; i < columns; i++) sum += widen(row[i]) * widen(x[i]);
    return sum;
}

// y = W x + b; W (rows, columns), bias may be null.
static void linear(const bf16 *weight, const bf16 *bias, const std::vector<bf16> &x, float *y, int64_t rows,
                   int threads) {
    const int64_t columns = x.size();
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t r = 0; r < rows; r++)
        y[r] = dot(weight + r * columns, x.data(), columns) + (bias ? widen(bias[r]) : 0);
}

static std::vector<bf16> layer_norm(const floats &x, const bf16 *weight, const bf16 *bias, float eps) {
    const int64_t C = x.size();
    double mean = 0, variance = 0;
    for (float value : x) mean += value / C;
    for (float value : x) variance += (value - mean) * (value - mean) / C;
    const double scale = 1 / std::sqrt(variance + eps);
    std::vector<bf16> result(C);
    for (int64_t i = 0; i < C; i++) result[i] = narrow((x[i] - mean) * scale * widen(weight[i]) + widen(bias[i]));
    return result;
}

// One head: the query looks at S keys and takes their values' mean. keys, values (S, D), q and y (D).
static void attend(const bf16 *keys, const bf16 *values, const float *q, float *y, int64_t S, int64_t D) {
    floats weights(S);
    float most = -INFINITY, total = 0;
    for (int64_t s = 0; s < S; s++) {
        float score = 0;
#pragma omp simd reduction(+ : score)
        for (int64_t d = 0; d < D; d++) score += q[d] * widen(keys[s * D + d]);
        weights[s] = score / std::sqrt(static_cast<float>(D));
        most = std::max(most, weights[s]);
    }
    std::fill(y, y + D, 0.0f);
    for (int64_t s = 0; s < S; s++) {
        const float weight = std::exp(weights[s] - most);
        total += weight;
        for (int64_t d = 0; d < D; d++) y[d] += weight * widen(values[s * D + d]);
    }
    for (int64_t d = 0; d < D; d++) y[d] /= total;
}

static float gelu(float x) {  // Hendrycks and Gimpel 2016, in the tanh form
    return 0.5f * x * (1 + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
}

// tensors: the embeddings of tokens and positions, 12 of each block, weight and bias of the last norm.
// keys, values: the cache, (layers, H, room, D), of which `position` are filled; those of the token are written.
extern "C" void next_logits(const bf16 *const *tensors, int64_t layers, int64_t C, int64_t H, int64_t V, float eps,
                            int64_t token, int64_t position, bf16 *keys, bf16 *values, int64_t room, float *logits,
                            int threads) {
    const int64_t D = C / H, S = position + 1;
    const bf16 *tokens = tensors[0], *positions = tensors[1], *const *next = tensors + 2;
    floats x(C), qkv(3 * C), mixed(C), wide(4 * C), added(C);
    for (int64_t i = 0; i < C; i++) x[i] = widen(tokens[token * C + i]) + widen(positions[position * C + i]);
    for (int64_t layer = 0; layer < layers; layer++, next += 12) {
        linear(next[2], next[3], layer_norm(x, next[0], next[1], eps), qkv.data(), 3 * C, threads);
        for (int64_t h = 0; h < H; h++) {
            bf16 *k = keys + (layer * H + h) * room * D, *v = values + (layer * H + h) * room * D;
            for (int64_t d = 0; d < D; d++) {
                k[position * D + d] = narrow(qkv[C + h * D + d]);
                v[position * D + d] = narrow(qkv[2 * C + h * D + d]);
            }
            attend(k, v, &qkv[h * D], &mixed[h * D], S, D);
        }
        linear(next[4], next[5], narrow(mixed), added.data(), C, threads);
        for (int64_t i = 0; i < C; i++) x[i] += added[i];
        linear(next[8], next[9], layer_norm(x, next[6], next[7], eps), wide.data(), 4 * C, threads);
        for (float &value : wide) value = gelu(value);
        linear(next[10], next[11], narrow(wide), added.data(), C, threads);
        for (int64_t i = 0; i < C; i++) x[i] += added[i];
    }
    linear(tokens, nullptr, layer_norm(x, next[0], next[1], eps), logits, V, threads);
}
