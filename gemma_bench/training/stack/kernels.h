/* What the kernels share. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t marks __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline))

/* Everything runs in the order written, in one thread: the same input gives the same bits. */
#define EACH_MODEL(count) for (int64_t k = 0; k < (count); k++)

/* Compile `call` for the widths that tiny models have, where loops of known length cost a fraction, and for any other. */
#define FOR_WIDTH(width, call)                                                                                          \
  switch (width) {                                                                                                     \
    case 16: { enum { d = 16 }; call; break; }                                                                         \
    case 32: { enum { d = 32 }; call; break; }                                                                         \
    case 64: { enum { d = 64 }; call; break; }                                                                         \
    default: { const int64_t d = width; call; }                                                                        \
  }

/* e^x to a few parts in 10^7, written out so that compilers vectorise it without a vector library. NaN stays NaN. */
INLINE float exponential(float x) {
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float n = rintf(x * 1.44269504f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  const union { int32_t i; float f; } power = {((int32_t)n + 127) << 23};
  return y * power.f;
}
