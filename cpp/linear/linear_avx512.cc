// The kernels for AVX-512 with VNNI; see linear_kernels.inc.
#include <immintrin.h>
#define SET "avx512"
#include "linear/avx512_sizes.inc"
#include "linear/linear_kernels.inc"

const tokloom::Kernels& tokloom::kernels_avx512() { return set; }
