// The kernels for avx2; see linear_kernels.inc.
#include <immintrin.h>
#define ROWS 3
#define BLOCKS 2
#define SET "avx2"
#include "linear_kernels.inc"

const tokloom::Kernels& tokloom::kernels_avx2() { return set; }
