#include "linear/decoder.h"

#include <algorithm>

#include "attention/attention.h"
#include "base/pool.h"

namespace tokloom {
namespace {

constexpr std::size_t kGrain = 4;        // blocks of a matrix that a thread takes at once
constexpr std::size_t kSerialRows = 16;  // so few rows are normed faster by one thread than by waking a second

// Memory of one pass, reused by the next on this thread: it grows to what the largest one needed.
float* scratch(std::size_t which, std::size_t floats) {
  thread_local std::vector<float> buffers[6];
  std::vector<float>& buffer = buffers[which];
  if (buffer.size() < floats) buffer.resize(floats);
  return buffer.data();
}

template <class Each>
void each_row(const Pass& pass, const Each& body) {
  const std::size_t rows = pass.rows;
  if (rows <= kSerialRows) {
    for (std::size_t row = 0; row < rows; ++row) body(row);
    return;
  }
  pass.split(rows, kSerialRows, pass.threads, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) body(row);
  });
}

struct Product {
  const Linear* linear;
  float* out;
  std::size_t stride;
};

// Several matrices times the same rows as one piece of parallel work.
void multiply(Rows& rows, const std::vector<Product>& products, const Pass& pass) {
  std::size_t total = 0;
  for (const Product& product : products) {
    product.linear->matrix->prepare(rows, pass.threads, pass.split);
    total += product.linear->matrix->blocks();
  }
  pass.split(total, kGrain, pass.threads, [&](std::size_t begin, std::size_t end) {
    std::size_t first = 0;
    for (const Product& product : products) {
      const PackedMatrix& matrix = *product.linear->matrix;
      const std::size_t from = std::max(begin, first), to = std::min(end, first + matrix.blocks());
      if (from < to) {
        const std::size_t low = (from - first) * kBlock, high = std::min((to - first) * kBlock, matrix.outputs());
        matrix.apply(rows, product.out, product.stride, from - first, to - first);
        if (product.linear->bias)
          for (std::size_t row = 0; row < rows.rows; ++row)
            for (std::size_t output = low; output < high; ++output)
              product.out[row * product.stride + output] += product.linear->bias[output];
      }
      first += matrix.blocks();
    }
  });
}

}  // namespace

void Decoder::attention_in(std::size_t index, const Pass& pass, const std::vector<Destination>& to,
                           float* queries) const {
  const Layer& layer = layers_[index];
  const Elementwise& do_ = kernels().elementwise;
  const std::size_t rows = pass.rows, width = layer.head_dim;
  const std::size_t wide = layer.heads * width, narrow = layer.kv_heads * width, all = wide + 2 * narrow;
  float* normed = scratch(0, rows * hidden_);
  float* projected = scratch(1, rows * all);
  each_row(pass, [&](std::size_t row) {
    do_.rms_norm(pass.hidden + row * hidden_, layer.before_attention.weight, layer.before_attention.eps, hidden_,
                 normed + row * hidden_);
  });
  Rows input(normed, rows, hidden_);
  multiply(input, {{&layer.q, projected, all}, {&layer.k, projected + wide, all}, {&layer.v, projected + wide + narrow, all}},
           pass);
  float* keys = scratch(2, 2 * rows * narrow);
  float* values = keys + rows * narrow;
  const Rotary& rotary = pass.rotary[layer.rotary];
  each_row(pass, [&](std::size_t row) {
    const auto at = static_cast<std::size_t>(pass.positions[row]) * (width / 2);
    const auto place = [&](float* from, std::size_t head, const Norm& norm, float* into) {
      if (norm.weight) do_.rms_norm(from, norm.weight, norm.eps, width, from);
      do_.rotate(from, rotary.cosines + at, rotary.sines + at, width / 2);
      std::copy_n(from, width, into + (head * rows + row) * width);
    };
    float* from = projected + row * all;
    for (std::size_t head = 0; head < layer.heads; ++head, from += width) place(from, head, layer.of_queries, queries);
    for (std::size_t head = 0; head < layer.kv_heads; ++head, from += width) place(from, head, layer.of_keys, keys);
    for (std::size_t head = 0; head < layer.kv_heads; ++head, from += width)
      std::copy_n(from, width, values + (head * rows + row) * width);
  });
  std::size_t first = 0;
  for (std::size_t i = 0; i < to.size(); first += pass.sequences[i++].rows)
    to[i].buffer->append(keys + first * width, values + first * width, rows * width, pass.positions + first,
                         pass.sequences[i].rows, to[i].start);
}

void Decoder::attention_out(std::size_t index, const Pass& pass, const float* attended) const {
  const Layer& layer = layers_[index];
  const Elementwise& do_ = kernels().elementwise;
  const std::size_t rows = pass.rows, inner = layer.gate.matrix->outputs();
  const std::size_t stride = (inner + 15) / 16 * 16;
  float* half = scratch(1, rows * hidden_);
  float* normed = scratch(0, rows * hidden_);
  float* gate = scratch(2, 2 * rows * stride);
  float* up = gate + rows * stride;
  const auto join = [&](const Norm& norm, std::size_t row) {  // what a half of the layer gave joins the rest
    float* given = half + row * hidden_;
    if (norm.weight) do_.rms_norm(given, norm.weight, norm.eps, hidden_, given);
    do_.add(given, hidden_, pass.hidden + row * hidden_);
  };

  Rows input(attended, rows, layer.heads * layer.head_dim);
  multiply(input, {{&layer.o, half, hidden_}}, pass);
  each_row(pass, [&](std::size_t row) {
    join(layer.after_attention, row);
    do_.rms_norm(pass.hidden + row * hidden_, layer.before_mlp.weight, layer.before_mlp.eps, hidden_,
                 normed + row * hidden_);
    if (pass.tap && index == pass.tapped) std::copy_n(normed + row * hidden_, hidden_, pass.tap + row * hidden_);
  });

  Rows middle(normed, rows, hidden_);
  layer.gate.matrix->prepare(middle, pass.threads, pass.split);
  layer.up.matrix->prepare(middle, pass.threads, pass.split);
  // A thread makes the same outputs of both, so that it can gate them at once.
  pass.split(layer.gate.matrix->blocks(), kGrain, pass.threads, [&](std::size_t begin, std::size_t end) {
    layer.gate.matrix->apply(middle, gate, stride, begin, end);
    layer.up.matrix->apply(middle, up, stride, begin, end);
    const std::size_t low = begin * kBlock, high = end * kBlock;
    for (std::size_t row = 0; row < rows; ++row)
      for (std::size_t i = inner; i < high; ++i) gate[row * stride + i] = up[row * stride + i] = 0;
    for (std::size_t row = 0; row < rows; ++row)
      (layer.gelu ? do_.gelu_gate : do_.silu_gate)(gate + row * stride + low, up + row * stride + low, high - low);
  });
  if (stride != inner)
    for (std::size_t row = 1; row < rows; ++row) std::copy_n(gate + row * stride, inner, gate + row * inner);

  Rows last(gate, rows, inner);
  multiply(last, {{&layer.down, half, hidden_}}, pass);
  each_row(pass, [&](std::size_t row) { join(layer.after_mlp, row); });
}

void Decoder::run(const Pass& pass, const std::vector<std::vector<Destination>>& to,
                  const std::vector<std::vector<LayerPlan*>>& plans) const {
  for (std::size_t index = 0; index < layers_.size(); ++index) {
    const Layer& layer = layers_[index];
    const std::size_t wide = layer.heads * layer.head_dim;
    float* queries = scratch(3, pass.rows * wide);
    float* attended = scratch(4, pass.rows * wide);
    attention_in(index, pass, to[index], queries);
    std::size_t first = 0;
    for (std::size_t i = 0; i < to[index].size(); first += pass.sequences[i++].rows) {
      const KVBuffer& buffer = *to[index][i].buffer;
      AttentionCall call{};
      call.queries = queries + first * layer.head_dim;
      call.query_head_stride = pass.rows * layer.head_dim;
      call.query_row_stride = layer.head_dim;
      call.heads = layer.heads;
      call.kv_heads = layer.kv_heads;
      call.rows = pass.sequences[i].rows;
      call.head_dim = layer.head_dim;
      call.keys = buffer.keys;
      call.values = buffer.values;
      call.storage = buffer.storage;
      call.bases = buffer.bases;
      call.holes = buffer.holes;
      call.capacity = buffer.capacity;
      call.key_scales = buffer.key_scales;
      call.value_scales = buffer.value_scales;
      call.centres = buffer.centres;
      call.positions = buffer.positions;
      call.row_positions = pass.positions + first;
      call.past = to[index][i].start;
      call.count = call.past + call.rows;
      call.own = pass.sequences[i].own;
      call.window = layer.window;
      call.scale = layer.scale;
      call.softcap = layer.softcap;
      call.out = attended + first * wide;
      call.out_head_stride = layer.head_dim;
      call.out_row_stride = wide;
      call.threads = pass.threads;
      call.split = pass.split;
      if (LayerPlan* plan = plans[index][i]) plan->apply(call);
      attend(call);
    }
    attention_out(index, pass, attended);
  }
}

void Decoder::logits(const Pass& pass, std::size_t first, float* out) const {
  const Elementwise& do_ = kernels().elementwise;
  const std::size_t rows = pass.rows - first;
  float* normed = scratch(0, rows * hidden_);
  each_row(pass, [&](std::size_t row) {
    do_.rms_norm(pass.hidden + (first + row) * hidden_, last_.weight, last_.eps, hidden_, normed + row * hidden_);
  });
  Rows input(normed, rows, hidden_);
  multiply(input, {{&head_, out, head_.matrix->outputs()}}, pass);
}

}  // namespace tokloom
