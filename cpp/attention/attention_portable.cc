// The attention kernels for portable; see attention_kernels.inc.
#define LANES 4
#define QUERIES 8
#define TOTALS 3
#include "attention/attention_kernels.inc"

const tokloom::AttentionKernels& tokloom::attention_portable() { return set; }
