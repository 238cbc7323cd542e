// The attention kernels for avx2; see attention_kernels.inc.
#include <immintrin.h>
#define LANES 8
#define QUERIES 8
#define TOTALS 3
#include "attention/attention_kernels.inc"

const tokloom::AttentionKernels& tokloom::attention_avx2() { return set; }
