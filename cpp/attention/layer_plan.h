// What a policy that selects does in one layer and pass, as data that it lays out before the pass: whole passes then
// run in the core without asking it.
//
// Steps narrow down what is chosen from (`route` the query heads, `narrow` the slots), one chooses; or the choice is
// that of an earlier layer or pass. Sinks and the local window are always attended to. All rows of a pass choose one by one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention/attention.h"
#include "attention/selection.h"

namespace tokloom {

// The pages of similar keys that tokens are in: in whole batches by number, after them consecutive ones.
struct TokenPages {
  std::size_t size = 0, batch = 0;       // tokens of a page and of a batch; 0: there are no such pages
  const std::int64_t* page = nullptr;    // (kv_heads, page_stride): the page of each token of the batches
  std::size_t page_stride = 0;
  const void* consecutive = nullptr;     // entries of pages of consecutive tokens from the first on, laid out as the keys
  std::size_t consecutive_stride = 0;
};

// What is scored: the layer's own keys, or an index of the policy's own of what is in the past.
struct Index {
  // How queries become those of the index: as they are, [max(q, 0), min(q, 0)], some of their elements, or a product.
  enum class Map { own, signs, elements, product };

  const void* keys = nullptr;  // (kv_heads, *, width), `head_stride` entries between heads; nullptr: the layer's keys
  const float* key_scales = nullptr;  // int8 only: (kv_heads, *), `head_stride` apart
  Storage storage = Storage::f32;
  std::size_t head_stride = 0, width = 0;
  std::size_t page = 1;  // slots of an entry
  float scale = 1;
  Map map = Map::own;
  const void* table = nullptr;  // elements: int64 (heads, width); product: float (heads, head_dim, width)
  Reduce reduce = Reduce::mass;
  bool shared = false;                // one choice for all KV heads
  bool first = false;                 // of pages: the first is always taken
  const std::uint8_t* use = nullptr;  // (heads): which query heads have a say; nullptr: all
  TokenPages tokens;                  // if there are any, tokens are chosen by the score of their page's entry
};

// Clusters of the first `count` slots: which a row attends to is a matter of a threshold on a cluster's score.
struct ClusterList {
  const std::int64_t* label;  // (kv_heads, count)
  const float* sizes;         // (kv_heads, clusters)
  std::size_t count, clusters;
  float threshold;
};

// The choice that goes on as long as queries stay similar to the one that it was made for.
struct Earlier {
  float similarity;
  const float* query = nullptr;          // (heads, head_dim); nullptr: there is none yet
  const std::int64_t* choice = nullptr;  // (heads, chosen)
  std::size_t heads = 0, chosen = 0;
  const std::int32_t* parents = nullptr;  // (rows) of a tree; nullptr: one row
};

class LayerPlan {
 public:
  LayerPlan(std::size_t sink, std::size_t local) : sink_(sink), local_(local) {}

  // --- laying it out

  // Only the `active` query heads have a say that are nearest to the entries of the past: sum of relu(q entry).
  void route(const Index& means, std::size_t active);
  // Only the best pages' slots: `ratio` of the pages, and enough for `budget` slots; with ratio 0 the best `budget` slots.
  void narrow(const Index& index, std::size_t budget, float ratio);
  // The best: `budget` slots, or as many pages as are in it. mass, density: see ChooseCall; density's later 0 or more.
  void choose(const Index& index, std::size_t budget, float mass);
  void choose_by_density(const Index& index, const Density& density);
  // The slots of the clusters at the threshold, and all after the clustered ones; without sinks and local window.
  void choose_clusters(const Index& centroids, const ClusterList& clusters);
  void keep_while_similar(const Earlier& earlier) { earlier_ = earlier, similar_ = true; }
  // The choice of another layer's plan of the same pass.
  void reuse(const LayerPlan& other) { other_ = &other; }
  // The choice is for others: this layer attends to everything.
  void attend_densely() { dense_ = true; }

  // --- in the pass

  // Chooses, if there is anything to choose, and says so in the call.
  void apply(AttentionCall& call);

  // --- after it

  // The slots attended to, (index_heads, rows, width), -1 for none; of the past only.
  const std::vector<std::int64_t>& slots() const { return other_ ? other_->slots_ : slots_; }
  std::size_t index_heads() const { return other_ ? other_->index_heads_ : index_heads_; }
  std::size_t width() const { return other_ ? other_->width_ : width_; }
  // What lies before the choice itself: sinks and local window.
  std::size_t always() const { return always_; }
  // With `keep_while_similar`: the queries (rows, heads, head_dim) that the rows' choices were made for.
  const std::vector<float>& queries() const { return queries_; }
  bool dense() const { return dense_ || (!other_ && steps_.empty()); }
  // How many slots are listed.
  std::size_t listed() const;

 private:
  struct Step {
    enum class Kind { route, narrow, choose, density, tokens, clusters } kind;
    Index index;
    std::size_t budget;
    float ratio_or_mass;
    Density density;
    ClusterList clusters;
  };

  struct Pass;  // what the steps of a pass tell each other

  ScoreCall scoring(const Index& index, const AttentionCall& call, Pass& pass) const;
  static void map_query(const Index& index, std::size_t head, const float* query, std::size_t head_dim, float* to);
  void run_route(const Step& step, const AttentionCall& call, Pass& pass);
  void run_narrow(const Step& step, const AttentionCall& call, Pass& pass);
  void run_choose(const Step& step, const AttentionCall& call, Pass& pass);
  void run_tokens(const Step& step, const AttentionCall& call, Pass& pass);
  void run_clusters(const Step& step, const AttentionCall& call, Pass& pass);
  // Whether an earlier query (heads, head_dim) is similar to a row's; then whose choice each row takes.
  bool goes_on(const AttentionCall& call, std::size_t row, const float* earlier) const;
  void go_on(const AttentionCall& call, bool again);
  // Room for a choice of so many heads and slots, behind sinks and local window if `ends`.
  void open(const AttentionCall& call, std::size_t heads, std::size_t chosen, bool ends = true);
  std::int64_t* chosen_of(std::size_t head, std::size_t row) {
    return slots_.data() + (head * rows_ + row) * width_ + always_;
  }

  std::size_t sink_, local_;
  std::vector<Step> steps_;
  Earlier earlier_{};
  bool similar_ = false, dense_ = false;
  const LayerPlan* other_ = nullptr;
  std::vector<std::int64_t> slots_;
  std::vector<float> queries_;
  std::size_t index_heads_ = 1, rows_ = 0, width_ = 0, always_ = 0;
};

}  // namespace tokloom
