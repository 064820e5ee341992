// A matrix times one position, y = W x + b, all in bf16 with sums in fp32. W has its rows one after the other.

#include <cstdint>
#include <cstring>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

constexpr int64_t AHEAD = 1024;  // numbers of the matrix that memory is asked for before they are due
constexpr int64_t LINE = 32;     // numbers that memory brings at a time

static inline float widen(uint16_t value) {
    uint32_t bits = static_cast<uint32_t>(value) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

static inline uint16_t narrow(float value) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return value != value ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float dot(const uint16_t *row, const uint16_t *x, int64_t columns) {
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

extern "C" void matvec(const uint16_t *weight, const uint16_t *x, const uint16_t *bias, uint16_t *y, int64_t rows,
                       int64_t columns, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t r = 0; r < rows; r++)
        y[r] = narrow(dot(weight + r * columns, x, columns) + (bias ? widen(bias[r]) : 0.0f));
}
