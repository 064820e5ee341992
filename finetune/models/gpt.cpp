// The next token's logits of a GPT-2, for B sequences whose earlier tokens are in the cache.
//
// What gpt.py computes, with weights in fp32, bf16, int8 or int4 and everything else in fp32. Numbers that are multiplied by
// int8 or int4 weights are rounded to 16 bits, so that products and their sums are whole numbers and exact. A step is bound by
// memory: every weight is read once and in order; for several sequences, where arithmetic would let the memory wait, it is
// prefetched. The compiler turns the vectors into AVX2, AVX-512 or NEON. Letters: B sequences, C width, V vocabulary, H heads,
// D = C / H, S tokens so far.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

typedef uint16_t bf16;
typedef std::vector<float> floats;

struct Four {  // 32 weights: scale * level, from -8 to 7; level i is the low half of byte i, level i + 16 the high half
    bf16 scale;
    int8_t levels[16];
};

// BITS of a weight decide the types of the matrices in blocks, of the output matrix, and of embeddings, keys and values.
#if BITS == 4
typedef Four Weight;
typedef int8_t Head;
typedef float Kept;
#elif BITS == 8
typedef int8_t Weight;
typedef int8_t Head;
typedef float Kept;
#elif BITS == 16
typedef bf16 Weight;
typedef bf16 Head;
typedef bf16 Kept;
#else
typedef float Weight;
typedef float Head;
typedef float Kept;
#endif

#if defined(__AVX512BW__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef float quad __attribute__((vector_size(16)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
typedef int16_t shorts __attribute__((vector_size(4 * LANES)));
typedef int8_t bytes __attribute__((vector_size(2 * LANES)));
typedef float eight __attribute__((vector_size(32)));
typedef int32_t eight_ints __attribute__((vector_size(32)));

#define UNROLL _Pragma("GCC unroll 16")
constexpr int64_t CHUNK = 768;   // columns whose numbers of several sequences stay in the nearest cache
constexpr int64_t LONGEST = 4096;  // columns whose products, of 127 and 32767 at most, the int32s of 8 lanes can add up
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

template <typename V> static inline float total(V values) {
    constexpr int quads = sizeof(V) / sizeof(quad);
    quad parts[quads];
    std::memcpy(parts, &values, sizeof parts);
    UNROLL for (int i = 1; i < quads; i++) parts[0] += parts[i];
    return (parts[0][0] + parts[0][1]) + (parts[0][2] + parts[0][3]);
}

static inline float total(ints values) { return total(__builtin_convertvector(values, lanes)); }

static inline shorts widen_line(const int8_t *from) {
#if defined(__AVX512BW__)
    return (shorts)_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
#elif defined(__AVX2__)
    return (shorts)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
#else
    bytes own;
    std::memcpy(&own, from, sizeof own);
    return __builtin_convertvector(own, shorts);
#endif
}

// Products of neighbouring numbers, added in pairs.
static inline ints pairs(shorts a, shorts b) {
#if defined(__AVX512BW__)
    return (ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    const ints x = (ints)a, y = (ints)b;
    return ((x << 16) >> 16) * ((y << 16) >> 16) + (x >> 16) * (y >> 16);
#endif
}

// The part of a row that is read at a time (`step` items of type W, each of so many weights), and the numbers that it is
// multiplied by, as many items.
template <typename W> struct Line {
    typedef float Number;
    typedef lanes Sum;
    typedef lanes Part;
    static constexpr int step = LANES, weights = 1;
    static inline float one(W own, float x) { return widen(own) * x; }
    static inline Part read(const W *from) { return load(from); }
    static inline void add(Sum &sum, Part own, const float *x) { sum += own * load(x); }
};

template <> struct Line<int8_t> {
    typedef int16_t Number;
    typedef ints Sum;
    typedef shorts Part;
    static constexpr int step = 2 * LANES, weights = 1;
    static inline float one(int8_t own, int16_t x) { return static_cast<float>(own) * x; }
    static inline Part read(const int8_t *from) { return widen_line(from); }
    static inline void add(Sum &sum, Part own, const int16_t *x) {
        shorts other;
        std::memcpy(&other, x, sizeof other);
        sum += pairs(own, other);
    }
};

struct Numbers {  // that meet a Four
    int16_t own[32];
};

template <> struct Line<Four> {
    typedef Numbers Number;
    typedef eight Sum;
    static constexpr int step = 1, weights = 32;
#if defined(__AVX2__)
    struct Part {
        __m256i low, high;
        eight scale;
    };
    static inline Part read(const Four *from) {
        const __m256i both = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from->levels)));
        const __m256i scale = _mm256_slli_epi32(_mm256_set1_epi16(from->scale), 16);
        return {_mm256_srai_epi16(_mm256_slli_epi16(both, 12), 12), _mm256_srai_epi16(both, 4), (eight)scale};
    }
    static inline eight_ints products(const Part &own, const int16_t *x) {
        const __m256i *numbers = reinterpret_cast<const __m256i *>(x);
        return (eight_ints)_mm256_madd_epi16(own.low, _mm256_loadu_si256(numbers)) +
               (eight_ints)_mm256_madd_epi16(own.high, _mm256_loadu_si256(numbers + 1));
    }
#else
    struct Part {
        const int8_t *levels;
        float scale;
    };
    static inline Part read(const Four *from) { return {from->levels, widen(from->scale)}; }
    static inline eight_ints products(const Part &own, const int16_t *x) {
        eight_ints sums = {};
        for (int i = 0; i < 16; i++)
            sums[i / 2] += static_cast<int8_t>(own.levels[i] * 16) / 16 * x[i] + (own.levels[i] >> 4) * x[16 + i];
        return sums;
    }
#endif
    static inline void add(Sum &sum, const Part &own, const Numbers *x) {
        sum += __builtin_convertvector(products(own, x->own), eight) * own.scale;
    }
    static inline float one(const Four &own, const Numbers &x) {
        Sum sum = {};
        add(sum, read(&own), &x);
        return total(sum);
    }
};

// R rows, `columns` items apart, times `count` items of each of B sequences, `stride` apart; sums (R, all).
template <typename W, int R, int B>
static inline void dot(const W *rows, int64_t columns, const typename Line<W>::Number *x, int64_t stride, int64_t count, float *sums,
                       int64_t all) {
    typedef Line<W> line;
    constexpr int PARTS = R * B > 4 ? 1 : R * B > 2 ? 2 : 4;  // of each sum, which do not wait for each other
    typename line::Sum parts[R][B][PARTS] = {};
    int64_t i = 0;
    for (; i + PARTS * line::step <= count; i += PARTS * line::step) {
        if (R > 1) UNROLL for (int r = 0; r < R; r++) __builtin_prefetch(rows + (R + r) * columns + i);  // due next
        UNROLL for (int k = 0; k < PARTS; k++)
            UNROLL for (int r = 0; r < R; r++) {
                const typename line::Part own = line::read(rows + r * columns + i + k * line::step);
                UNROLL for (int b = 0; b < B; b++) line::add(parts[r][b][k], own, x + b * stride + i + k * line::step);
            }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int b = 0; b < B; b++) {
            UNROLL for (int k = 1; k < PARTS; k++) parts[r][b][0] += parts[r][b][k];
            sums[r * all + b] += total(parts[r][b][0]);
            for (int64_t rest = i; rest < count; rest++)
                sums[r * all + b] += line::one(rows[r * columns + rest], x[b * stride + rest]);
        }
}

template <typename W, int R>
static inline void dots(const W *rows, int64_t columns, const typename Line<W>::Number *x, int64_t stride, int64_t count, float *sums,
                        int64_t B) {
    int64_t b = 0;
    for (; b + 4 <= B; b += 4) dot<W, R, 4>(rows, columns, x + b * stride, stride, count, sums + b, B);
    for (; b + 2 <= B; b += 2) dot<W, R, 2>(rows, columns, x + b * stride, stride, count, sums + b, B);
    for (; b < B; b++) dot<W, R, 1>(rows, columns, x + b * stride, stride, count, sums + b, B);
}

// A sequence's numbers as they are multiplied; what a unit of them stands for.
static inline float round_to(const float *x, float *to, int64_t columns) {
    std::copy(x, x + columns, to);
    return 1;
}

static inline float round_to(const float *x, int16_t *to, int64_t columns) {
    float most = 0;
    for (int64_t i = 0; i < columns; i++) most = std::max(most, std::fabs(x[i]));
    const float unit = most > 0 ? most / 32767 : 1;
    for (int64_t i = 0; i < columns; i++) to[i] = static_cast<int16_t>((x[i] / unit + 12582912.0f) - 12582912.0f);
    return unit;
}

static inline float round_to(const float *x, Numbers *to, int64_t items) { return round_to(x, to->own, items * 32); }

template <typename W> struct Matrix {
    const W *weight;  // (rows, columns), or items of columns
    const float *scale, *bias;  // (rows); may be null
};

// y = scale * (W x) + b; x (B, columns), y (B, rows).
template <typename W> static void linear(const Matrix<W> &matrix, const floats &x, floats &y, int64_t B, int threads) {
    constexpr int64_t weights = Line<W>::weights;
    const int64_t columns = x.size() / B / weights, rows = y.size() / B, wide = (B == 1 ? LONGEST : CHUNK) / weights;
    std::vector<typename Line<W>::Number> numbers(B * columns);
    floats units(B);
    for (int64_t b = 0; b < B; b++) units[b] = round_to(&x[b * columns * weights], &numbers[b * columns], columns);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t block = 0; block < rows; block += BLOCK) {
        const int64_t end = std::min(block + BLOCK, rows);
        floats sums((end - block) * B);
        for (int64_t first = 0; first < columns; first += wide) {
            const int64_t count = std::min(wide, columns - first);
            const W *from = matrix.weight + first;
            int64_t r = block;
            for (; B > 1 && r + 2 <= end; r += 2)
                dots<W, 2>(from + r * columns, columns, &numbers[first], columns, count, &sums[(r - block) * B], B);
            for (; r < end; r++)
                dots<W, 1>(from + r * columns, columns, &numbers[first], columns, count, &sums[(r - block) * B], B);
        }
        for (int64_t r = block; r < end; r++)
            for (int64_t b = 0; b < B; b++)
                y[b * rows + r] = sums[(r - block) * B + b] * units[b] * (matrix.scale ? matrix.scale[r] : 1) +
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
        dot<E, 1, 1>(keys + s * D, D, q, D, D, &weights[s], 1);
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

// W: the type of the matrices in blocks, O: of the output matrix, E: of embeddings, keys and values.
template <typename W, typename O, typename E>
static void step(const void *const *next, int64_t B, int64_t layers, int64_t C, int64_t H, int64_t V, float eps,
                 const int64_t *tokens, const int64_t *starts, int64_t position, E *keys, E *values, int64_t room,
                 float *logits, int threads) {
    const int64_t D = C / H, S = position + 1;
    const E *embeddings = take<E>(next), *positions = take<E>(next);
    const Matrix<O> head = take_matrix<O>(next);
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
    step<Weight, Head>(tensors, B, layers, C, H, V, eps, tokens, starts, position, static_cast<Kept *>(keys),
                 static_cast<Kept *>(values), room, logits, threads);
}
