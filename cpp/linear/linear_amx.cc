// The kernels for AMX with bfloat16, and AVX-512 for what is not made of tiles; see linear_kernels.inc.
#include <immintrin.h>
#define SET "amx"
#include "linear/avx512_sizes.inc"
#include "linear/linear_kernels.inc"

const tokloom::Kernels& tokloom::kernels_amx() { return set; }
