/* x·Wᵀ for 8-bit weights w = code·scale + bias as MLX packs them: a row's codes side by side, a scale and a bias a group.
 *
 * Arithmetic is float32. Over a group Σ (code·scale + bias)·x is scale·Σ code·x + bias·Σ x, so that a code costs no more
 * than its conversion and one multiplication, and memory sets the pace. Rows are done in fours, which share an input.
 * The same input gives the same bits, whatever the number of threads.
 */
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define LANES 16
#define ROWS 4
#define SHARE 32    /* rows that a thread takes at a time */
#define AHEAD 1024 /* bytes: a row is too short for the processor to see where it leads */

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));
typedef uint8_t octets __attribute__((vector_size(LANES)));

INLINE lanes widened(const uint8_t *codes) {
  octets bytes;
  memcpy(&bytes, codes, sizeof bytes);
#ifdef __AVX512F__ /* gcc 12 makes dozens of instructions of the plain form */
  return (lanes)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32((__m128i)bytes));
#else
  return __builtin_convertvector(__builtin_convertvector(bytes, integers), lanes);
#endif
}

INLINE lanes loaded(const float *from) {
  lanes values;
  memcpy(&values, from, sizeof values);
  return values;
}

INLINE float bfloat(uint16_t bits) {
  const union { uint32_t i; float f; } wide = {(uint32_t)bits << 16};
  return wide.f;
}

/* Multiply four rows with one input, whose sums over groups are `sums`. */
static void rows(int64_t columns, int64_t group, const float *x, const float *sums, const uint8_t *codes,
                 const uint16_t *scales, const uint16_t *biases, float *out) {
  const int64_t groups = columns / group;
  lanes whole[ROWS] = {0};
  float bias[ROWS] = {0};
  for (int64_t g = 0; g < groups; g++) {
    lanes part[ROWS] = {0};
    for (int64_t c = g * group; c < (g + 1) * group; c += LANES) {
      const lanes here = loaded(x + c);
      for (int r = 0; r < ROWS; r++) part[r] += widened(codes + r * columns + c) * here;
    }
    for (int r = 0; r < ROWS; r++) {
      __builtin_prefetch(codes + r * columns + g * group + ROWS * AHEAD);
      whole[r] += bfloat(scales[r * groups + g]) * part[r];
      bias[r] += bfloat(biases[r * groups + g]) * sums[g];
    }
  }
  for (int r = 0; r < ROWS; r++) {
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += whole[r][lane];
    out[r] = sum + bias[r];
  }
}

/* `out` is inputs × count, `sums` inputs × groups. Rows come in fours, groups in 16 columns. */
void product(int64_t threads, int64_t inputs, int64_t count, int64_t columns, int64_t group, const float *x,
             const float *sums, const uint8_t *codes, const uint16_t *scales, const uint16_t *biases, float *out) {
  const int64_t groups = columns / group;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t first = 0; first < count; first += SHARE)
    for (int64_t i = 0; i < inputs; i++)
      for (int64_t r = first; r < count && r < first + SHARE; r += ROWS)
        rows(columns, group, x + i * columns, sums + i * groups, codes + r * columns, scales + r * groups,
             biases + r * groups, out + i * count + r);
}
