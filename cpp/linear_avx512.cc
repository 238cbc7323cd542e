// The kernels for avx512; see linear_kernels.inc.
#include <immintrin.h>
#define ROWS 6
#define BLOCKS 4
#define SET "avx512"
#include "linear_kernels.inc"

const tokloom::Kernels& tokloom::kernels_avx512() { return set; }
