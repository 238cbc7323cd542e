// The layers of a Llama-like decoder over packed weights: RMS norms, rotary attention with shared KV heads, gated MLP.
//
// Norms before each half of a layer, and where a family has them after it (Gemma) and on queries and keys (Gemma, Qwen
// 3); biases on q, k and v (Qwen 2). One layer is two calls with the attention between them, which may be anybody's; or
// `run` does all layers with the core's own. Everything between matrices is float.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "attention/kv_buffer.h"
#include "attention/layer_plan.h"
#include "linear/linear.h"

namespace tokloom {

struct Linear {
  const PackedMatrix* matrix;
  const float* bias;  // nullptr: none
};

struct Norm {
  const float* weight;  // nullptr: there is no such norm
  float eps;
};

// cosines and sines of each position's angles, (positions, half) each.
struct Rotary {
  const float* cosines;
  const float* sines;
};

struct Layer {
  Norm before_attention, of_queries, of_keys, after_attention, before_mlp, after_mlp;
  Linear q, k, v, o, gate, up, down;
  std::size_t heads, kv_heads, head_dim;
  float scale, softcap;    // of the attention's scores; softcap 0: none
  std::int32_t window;     // 0: none
  std::size_t rotary;      // which of the pass's tables
  bool gelu;               // else SiLU
};

// Rows of a pass that belong to one sequence, with a KV store of their own. own: see AttentionCall.
struct Sequence {
  std::size_t rows;
  const std::uint8_t* own;
};

// Where a sequence's rows go in one layer: to the slots from `start` on.
struct Destination {
  const KVBuffer* buffer;
  std::size_t start;
};

// One pass: its rows, sequence after sequence, and where they stand.
struct Pass {
  float* hidden;  // (rows, hidden size): embeddings when the pass begins, updated by every layer
  std::size_t rows;
  const std::int32_t* positions;  // (rows)
  std::vector<Sequence> sequences;
  std::vector<Rotary> rotary;
  int threads;
  ParallelFor split = parallel_for;  // whose threads: torch's where its operations come between two layers
  float* tap = nullptr;              // (rows, hidden size): gets what the MLP of layer `tapped` gets; or nullptr
  std::size_t tapped = 0;
};

class Decoder {
 public:
  Decoder(std::size_t hidden, Norm last, Linear head) : hidden_(hidden), last_(last), head_(head) {}

  void add(const Layer& layer) { layers_.push_back(layer); }
  std::size_t layers() const { return layers_.size(); }
  const Layer& layer(std::size_t index) const { return layers_[index]; }

  // First half: writes the rows' keys and values to their sequences' destinations and their rotated queries to
  // (heads, rows, head_dim).
  void attention_in(std::size_t index, const Pass& pass, const std::vector<Destination>& to, float* queries) const;
  // Second half: `attended` (rows, heads * head_dim) is what the attention gave.
  void attention_out(std::size_t index, const Pass& pass, const float* attended) const;
  // Both and the core's attention between them, for all layers. plans: by layer and sequence, nullptr for dense.
  void run(const Pass& pass, const std::vector<std::vector<Destination>>& to,
           const std::vector<std::vector<LayerPlan*>>& plans) const;
  // Logits after the rows [first, rows): (rows - first, vocabulary).
  void logits(const Pass& pass, std::size_t first, float* out) const;

 private:
  std::size_t hidden_;
  Norm last_;
  Linear head_;
  std::vector<Layer> layers_;
};

}  // namespace tokloom
