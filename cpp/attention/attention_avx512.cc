// The attention kernels for avx512; see attention_kernels.inc.
#include <immintrin.h>
#define LANES 16
#define QUERIES 12
#define TOTALS 6
#include "attention/attention_kernels.inc"

const tokloom::AttentionKernels& tokloom::attention_avx512() { return set; }
