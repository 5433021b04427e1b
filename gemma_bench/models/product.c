/* x·Wᵀ for weights of 4 and 8 bits, which reads a code once: memory sets its pace where the processor lets it.
 *
 * Inputs are rounded to 16 bits, each with one step of its own: finer than bfloat16 where it matters, beside the largest
 * values, and two codes are multiplied in the time of one. Over a group Σ (code·scale + bias)·x is then
 * scale·Σ code·x + bias·Σ x, the first sum in whole numbers. With one input rows are done in fours, which share it; several
 * inputs are done in fours, which share a conversion. The same input gives the same bits, whatever the number of threads.
 */
#include "product.h"
#include <math.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define LANES 16 /* codes that are converted at a time */
#define ROWS 4
#define INPUTS 4
#define GROUPS 1024 /* that a row may have */
#define SHARE 32    /* rows that a thread takes at a time */
#define AHEAD 1024  /* bytes: a row is too short for the processor to see where it leads */
#define LARGEST 32767

typedef int16_t shorts __attribute__((vector_size(2 * LANES)));
typedef int32_t integers __attribute__((vector_size(2 * LANES)));
typedef float floats __attribute__((vector_size(2 * LANES)));
typedef uint8_t octets __attribute__((vector_size(LANES)));

typedef struct {
  float step;
  const int16_t *values; /* laid out as the codes lie */
  const float *sums;     /* over groups, of values times step */
} input;

INLINE shorts widened(const uint8_t *codes) {
  octets bytes;
  memcpy(&bytes, codes, sizeof bytes);
#ifdef __AVX2__ /* gcc 12 makes dozens of instructions of the plain form */
  return (shorts)_mm256_cvtepu8_epi16((__m128i)bytes);
#else
  return __builtin_convertvector(bytes, shorts);
#endif
}

/* Multiply, and add neighbours. */
INLINE integers pairs(shorts a, const int16_t *from) {
  shorts b;
  memcpy(&b, from, sizeof b);
#ifdef __AVX2__
  return (integers)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
  integers sums;
  for (int lane = 0; lane < LANES / 2; lane++)
    sums[lane] = a[2 * lane] * b[2 * lane] + a[2 * lane + 1] * b[2 * lane + 1];
  return sums;
#endif
}

INLINE float total(floats values) {
  float sum = 0;
  for (int lane = 0; lane < LANES / 2; lane++) sum += values[lane];
  return sum;
}

/* Round an input and lay it out: with two codes in a byte, LANES even columns and then LANES odd ones. */
static float lay_out(const matrix *w, const float *x, int16_t *values, float *sums) {
  float largest = 0;
  for (int64_t c = 0; c < w->columns; c++) largest = fabsf(x[c]) > largest ? fabsf(x[c]) : largest;
  const float step = largest / LARGEST, steps = largest > 0 ? LARGEST / largest : 0;
  if (w->bits == 8)
    for (int64_t c = 0; c < w->columns; c++) values[c] = (int16_t)rintf(x[c] * steps);
  else
    for (int64_t c = 0; c < w->columns; c += 2 * LANES)
      for (int64_t pair = 0; pair < LANES; pair++) {
        values[c + pair] = (int16_t)rintf(x[c + 2 * pair] * steps);
        values[c + LANES + pair] = (int16_t)rintf(x[c + 2 * pair + 1] * steps);
      }
  for (int64_t g = 0; g < w->columns / w->group; g++) {
    int32_t sum = 0;
    for (int64_t c = 0; c < w->group; c++) sum += values[g * w->group + c];
    sums[g] = step * sum;
  }
  return step;
}

/* Multiply `deep` rows with `count` inputs; these numbers are known when this is compiled, like the bits. */
INLINE void rows(const matrix *w, int64_t row, int deep, int bits, int count, const input *x, float *out,
                 int64_t stride) {
  const int64_t groups = w->columns / w->group, bytes = w->columns * bits / 8, group_bytes = w->group * bits / 8;
  const uint16_t *scales = w->scales + row * groups, *biases = w->biases + row * groups;
  float scale[ROWS][GROUPS];
  for (int r = 0; r < deep; r++)
    for (int64_t g = 0; g < groups; g++) scale[r][g] = bfloat(scales[r * groups + g]);
  floats whole[ROWS][INPUTS] = {0};
  for (int64_t g = 0; g < groups; g++) {
    const uint8_t *codes = w->codes + row * bytes + g * group_bytes;
    integers part[ROWS][INPUTS] = {0};
    for (int64_t b = 0; b < group_bytes; b += LANES) {
      const int64_t at = g * w->group + b * 8 / bits;
#pragma GCC unroll 4
      for (int r = 0; r < deep; r++) {
        const shorts read = widened(codes + r * bytes + b);
#pragma GCC unroll 4
        for (int i = 0; i < count; i++) {
          part[r][i] += pairs(bits == 8 ? read : read & 15, x[i].values + at);
          if (bits == 4) part[r][i] += pairs(read >> 4, x[i].values + at + LANES);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < deep; r++) {
      __builtin_prefetch(codes + r * bytes + ROWS * AHEAD);
#pragma GCC unroll 4
      for (int i = 0; i < count; i++) whole[r][i] += scale[r][g] * __builtin_convertvector(part[r][i], floats);
    }
  }
  for (int i = 0; i < count; i++)
    for (int r = 0; r < deep; r++) {
      float bias = 0;
      for (int64_t g = 0; g < groups; g++) bias += bfloat(biases[r * groups + g]) * x[i].sums[g];
      out[i * stride + row + r] = x[i].step * total(whole[r][i]) + bias;
    }
}

/* Multiply all inputs with some rows, which stay in the cache meanwhile. */
INLINE void share(const matrix *w, int64_t first, int64_t end, int bits, int64_t count, const input *x, float *out,
                  int64_t stride) {
  int64_t i = 0;
  for (; i + INPUTS <= count; i += INPUTS)
    for (int64_t r = first; r < end; r++) rows(w, r, 1, bits, INPUTS, x + i, out + i * stride, stride);
  for (; i < count; i++) {
    int64_t r = first;
    for (; r + ROWS <= end; r += ROWS) rows(w, r, ROWS, bits, 1, x + i, out + i * stride, stride);
    for (; r < end; r++) rows(w, r, 1, bits, 1, x + i, out + i * stride, stride);
  }
}

void product(int64_t threads, int64_t count, const matrix *w, const float *x, float *room, float *out,
             int64_t stride) {
  const int64_t groups = w->columns / w->group;
  input *inputs = (input *)room;
  float *sums = (float *)(inputs + count);
  int16_t *values = (int16_t *)(sums + count * groups);
  for (int64_t i = 0; i < count; i++) {
    const float step = lay_out(w, x + i * w->columns, values + i * w->columns, sums + i * groups);
    inputs[i] = (input){step, values + i * w->columns, sums + i * groups};
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t first = 0; first < w->rows; first += SHARE) {
    const int64_t end = first + SHARE < w->rows ? first + SHARE : w->rows;
    if (w->bits == 8)
      share(w, first, end, 8, count, inputs, out, stride);
    else
      share(w, first, end, 4, count, inputs, out, stride);
  }
}
