#include "attention/layer_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "attention/attention_block.h"
#include "base/buffer.h"

namespace tokloom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

const float* query_of(const AttentionCall& call, std::size_t head, std::size_t row) {
  return call.queries + head * call.query_head_stride + row * call.query_row_stride;
}

// The sum of those above 0, in parts that fill a register.
float positive_sum(const float* from, std::size_t count) {
  float parts[kWidest] = {};
  std::size_t i = 0;
  for (; i + kWidest <= count; i += kWidest)
    for (std::size_t k = 0; k < kWidest; ++k) parts[k] += std::max(from[i + k], 0.0f);
  for (; i < count; ++i) parts[i % kWidest] += std::max(from[i], 0.0f);
  return std::accumulate(parts, parts + kWidest, 0.0f);
}

}  // namespace

struct LayerPlan::Pass {
  std::vector<std::int32_t> ends, pages;  // each row may choose slots [sink, end), pages up to that of its end
  std::int32_t last = 0;                  // the largest end
  std::vector<std::uint8_t> use;          // (heads, rows), of a router; empty: all
  std::vector<std::int64_t> among;        // (among_heads, rows, among_width): the slots that are left
  std::vector<std::int64_t> left;         // what becomes `among`
  std::size_t among_heads = 1, among_width = 0;
  bool narrowed = false;
  std::vector<std::uint8_t> heard;  // what `scoring` makes
  std::vector<float> queries;
  Buffer scores, further;
};

// --- laying it out

void LayerPlan::route(const Index& means, std::size_t active) {
  steps_.push_back({Step::Kind::route, means, active, 0, {}, {}});
}

void LayerPlan::narrow(const Index& index, std::size_t budget, float ratio) {
  steps_.push_back({Step::Kind::narrow, index, budget, ratio, {}, {}});
}

void LayerPlan::choose(const Index& index, std::size_t budget, float mass) {
  steps_.push_back({index.tokens.size ? Step::Kind::tokens : Step::Kind::choose, index, budget, mass, {}, {}});
}

void LayerPlan::choose_by_density(const Index& index, const Density& density) {
  steps_.push_back({Step::Kind::density, index, static_cast<std::size_t>(density.most), 0, density, {}});
}

void LayerPlan::choose_clusters(const Index& centroids, const ClusterList& clusters) {
  steps_.push_back({Step::Kind::clusters, centroids, 0, 0, {}, clusters});
}

std::size_t LayerPlan::listed() const {
  const std::vector<std::int64_t>& all = slots();
  return static_cast<std::size_t>(std::count_if(all.begin(), all.end(), [](std::int64_t slot) { return slot >= 0; }));
}

// --- in the pass

void LayerPlan::apply(AttentionCall& call) {
  if (!other_ && !steps_.empty()) {
    rows_ = call.rows;
    const bool again = similar_ && rows_ == 1 && earlier_.query && goes_on(call, 0, earlier_.query);
    if (again) {
      open(call, earlier_.heads, earlier_.chosen);
    } else {
      static thread_local Pass pass;
      pass.ends.resize(rows_);
      pass.pages.resize(rows_);
      pass.last = 0;
      for (std::size_t row = 0; row < rows_; ++row) {
        const std::int32_t end = call.row_positions[row] - static_cast<std::int32_t>(local_) + 1;
        pass.ends[row] = std::min(end, static_cast<std::int32_t>(call.past));
        pass.last = std::max(pass.last, pass.ends[row]);
      }
      pass.use.clear();
      pass.narrowed = false;
      for (const Step& step : steps_) switch (step.kind) {
          case Step::Kind::route: run_route(step, call, pass); break;
          case Step::Kind::narrow: run_narrow(step, call, pass); break;
          case Step::Kind::choose:
          case Step::Kind::density: run_choose(step, call, pass); break;
          case Step::Kind::tokens: run_tokens(step, call, pass); break;
          case Step::Kind::clusters: run_clusters(step, call, pass); break;
        }
    }
    if (similar_) go_on(call, again);
  }
  if (dense()) return;
  call.index = slots().data();
  call.chosen = width();
  call.index_heads = index_heads();
  call.index_rows = call.rows;
}

void LayerPlan::open(const AttentionCall& call, std::size_t heads, std::size_t chosen, bool ends) {
  always_ = ends ? sink_ + local_ : 0;
  width_ = std::max<std::size_t>(1, always_ + std::max(chosen, similar_ ? earlier_.chosen : 0));
  index_heads_ = heads;
  slots_.assign(heads * rows_ * width_, -1);
  if (!ends) return;
  for (std::size_t head = 0; head < heads; ++head)
    for (std::size_t row = 0; row < rows_; ++row) {
      std::int64_t* to = slots_.data() + (head * rows_ + row) * width_;
      std::iota(to, to + sink_, std::int64_t{0});
      const std::int64_t first = std::int64_t{call.row_positions[row]} - static_cast<std::int64_t>(local_) + 1;
      for (std::size_t i = 0; i < local_; ++i) {
        const std::int64_t slot = first + static_cast<std::int64_t>(i);
        if (slot >= static_cast<std::int64_t>(sink_) && slot < static_cast<std::int64_t>(call.past)) to[sink_ + i] = slot;
      }
    }
}

ScoreCall LayerPlan::scoring(const Index& index, const AttentionCall& call, Pass& pass) const {
  ScoreCall score{};
  const std::size_t width = index.keys ? index.width : call.head_dim;
  score.heads = call.heads, score.kv_heads = call.kv_heads, score.rows = call.rows, score.width = width;
  if (index.map == Index::Map::own) {
    score.queries = call.queries;
    score.query_head_stride = call.query_head_stride, score.query_row_stride = call.query_row_stride;
  } else {
    pass.queries.resize(call.heads * call.rows * width);
    for (std::size_t head = 0; head < call.heads; ++head)
      for (std::size_t row = 0; row < call.rows; ++row)
        map_query(index, head, query_of(call, head, row), call.head_dim,
                  pass.queries.data() + (head * call.rows + row) * width);
    score.queries = pass.queries.data();
    score.query_head_stride = call.rows * width, score.query_row_stride = width;
  }
  if (index.keys) {
    score.keys = index.keys, score.storage = index.storage, score.head_stride = index.head_stride;
    score.key_scales = index.key_scales;
  } else {
    score.keys = call.keys, score.storage = call.storage, score.head_stride = call.capacity;
    score.key_scales = call.key_scales, score.centres = call.centres;
  }
  const auto page = static_cast<std::int32_t>(index.page);
  if (page > 1)
    for (std::size_t row = 0; row < call.rows; ++row) pass.pages[row] = pass.ends[row] / page;
  score.begin = static_cast<std::int32_t>(sink_) / page;
  score.ends = page > 1 ? pass.pages.data() : pass.ends.data();
  score.count = static_cast<std::size_t>(pass.last / page);
  if (pass.narrowed && page == 1) {
    score.index = pass.among.data();
    score.chosen = pass.among_width, score.index_heads = pass.among_heads, score.index_rows = call.rows;
  }
  if (!pass.use.empty()) {
    score.use = pass.use.data();
  } else if (index.use) {
    pass.heard.resize(call.heads * call.rows);
    for (std::size_t i = 0; i < pass.heard.size(); ++i) pass.heard[i] = index.use[i / call.rows];
    score.use = pass.heard.data();
  }
  score.scale = index.scale;
  score.reduce = index.reduce;
  score.shared = index.shared;
  score.threads = call.threads;
  score.split = call.split;
  return score;
}

void LayerPlan::map_query(const Index& index, std::size_t head, const float* query, std::size_t head_dim, float* to) {
  if (index.map == Index::Map::signs) {
    for (std::size_t k = 0; k < head_dim; ++k) {
      to[k] = std::max(query[k], 0.0f);
      to[head_dim + k] = std::min(query[k], 0.0f);
    }
  } else if (index.map == Index::Map::elements) {
    const std::int64_t* from = static_cast<const std::int64_t*>(index.table) + head * index.width;
    for (std::size_t k = 0; k < index.width; ++k) to[k] = query[static_cast<std::size_t>(from[k])];
  } else {
    const float* row = static_cast<const float*>(index.table) + head * head_dim * index.width;
    std::fill_n(to, index.width, 0.0f);
    for (std::size_t k = 0; k < head_dim; ++k, row += index.width)
      for (std::size_t i = 0; i < index.width; ++i) to[i] += query[k] * row[i];
  }
}

void LayerPlan::run_route(const Step& step, const AttentionCall& call, Pass& pass) {
  if (step.budget >= call.heads) return;
  ScoreCall score = scoring(step.index, call, pass);
  score.begin = 0;
  score.reduce = Reduce::each;
  score.out = pass.scores.floats(call.heads * call.rows * score.count + 1);
  score_slots(score);
  std::vector<float> energies(call.heads);
  std::vector<std::size_t> order(call.heads);
  pass.use.assign(call.heads * call.rows, 0);
  for (std::size_t row = 0; row < call.rows; ++row) {
    for (std::size_t head = 0; head < call.heads; ++head) {
      const float* from = score.out + (head * call.rows + row) * score.count;
      energies[head] = positive_sum(from, score.count);
    }
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return energies[a] > energies[b]; });
    for (std::size_t i = 0; i < step.budget; ++i) pass.use[order[i] * call.rows + row] = 1;
  }
}

void LayerPlan::run_narrow(const Step& step, const AttentionCall& call, Pass& pass) {
  ChooseCall choice{};
  choice.score = scoring(step.index, call, pass);
  choice.page = step.index.page, choice.first = step.index.first;
  choice.begin = static_cast<std::int32_t>(sink_), choice.ends = pass.ends.data();
  std::vector<std::int32_t> counts;
  if (step.ratio_or_mass > 0) {
    // The first and the last page may lie outside the span for the most part.
    const auto least = static_cast<float>((step.budget + choice.page - 1) / choice.page + 2);
    for (const std::int32_t end : pass.ends) {
      const auto width = static_cast<float>(end / static_cast<std::int32_t>(choice.page) + 1);
      counts.push_back(static_cast<std::int32_t>(std::min(std::max(std::ceil(step.ratio_or_mass * width), least), width)));
    }
    choice.counts = counts.data();
    choice.k = static_cast<std::size_t>(*std::max_element(counts.begin(), counts.end()));
  } else {
    choice.k = std::min(step.budget, choice.score.count);
  }
  const std::size_t heads = choice.score.results(), width = choice.k * choice.page;
  pass.left.resize(heads * call.rows * width);
  choice.out = pass.left.data();
  choose_slots(choice);
  pass.among.swap(pass.left);
  pass.among_heads = heads, pass.among_width = width;
  pass.narrowed = true;
  if (step.ratio_or_mass <= 0) pass.use.clear();  // all heads rate what a few have left
}

void LayerPlan::run_choose(const Step& step, const AttentionCall& call, Pass& pass) {
  ChooseCall choice{};
  choice.score = scoring(step.index, call, pass);
  choice.page = step.index.page, choice.first = step.index.first;
  choice.begin = static_cast<std::int32_t>(sink_), choice.ends = pass.ends.data();
  const std::size_t items = choice.page > 1 ? choice.score.count + 1 : pass.narrowed ? pass.among_width : choice.score.count;
  choice.k = std::min(step.budget / choice.page, items);
  if (step.kind == Step::Kind::density) choice.density = &step.density;
  choice.mass = step.ratio_or_mass;
  open(call, choice.score.results(), choice.k * choice.page);
  choice.out = chosen_of(0, 0);
  choice.stride = width_;
  choose_slots(choice);
}

void LayerPlan::run_tokens(const Step& step, const AttentionCall& call, Pass& pass) {
  const TokenPages& tokens = step.index.tokens;
  const std::size_t size = tokens.size, last = static_cast<std::size_t>(pass.last);
  const auto least = static_cast<std::size_t>(*std::min_element(pass.ends.begin(), pass.ends.end()));
  const std::size_t whole = least / tokens.batch * tokens.batch, first = whole / size;
  const float *whole_scores = nullptr, *further_scores = nullptr;
  std::size_t others = 0;
  std::vector<std::int32_t> all(call.rows, static_cast<std::int32_t>(first));
  if (whole) {
    ScoreCall score = scoring(step.index, call, pass);
    score.begin = 0, score.ends = all.data(), score.count = first;
    whole_scores = score.out = pass.scores.floats(call.kv_heads * call.rows * first);
    score_slots(score);
  }
  if (last / size > first) {
    Index consecutive = step.index;
    consecutive.keys = tokens.consecutive, consecutive.head_stride = tokens.consecutive_stride, consecutive.page = size;
    ScoreCall score = scoring(consecutive, call, pass);
    others = last / size - first;
    score.keys = static_cast<const char*>(score.keys) + first * row_bytes(score.storage, score.width);
    for (std::int32_t& page : pass.pages) page -= static_cast<std::int32_t>(first);
    score.begin = 0, score.count = others;
    further_scores = score.out = pass.further.floats(call.kv_heads * call.rows * others);
    score_slots(score);
  }
  const std::size_t k = std::min(step.budget, last);
  open(call, call.kv_heads, k);
  call.split(call.kv_heads * call.rows, 1, call.threads, [&](std::size_t begin, std::size_t end) {
    static thread_local std::vector<float> values;
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t head = i / call.rows, row = i % call.rows, limit = static_cast<std::size_t>(pass.ends[row]);
      values.assign(last, -kInfinity);
      const float* from = whole_scores + i * first;
      const std::int64_t* page = tokens.page + head * tokens.page_stride;
      for (std::size_t t = 0; t < whole; ++t) values[t] = from[page[t]];
      from = further_scores + i * others;
      for (std::size_t p = 0; p < others; ++p) std::fill_n(values.data() + whole + p * size, size, from[p]);
      const float most = std::max(*std::max_element(values.begin(), values.end()), -1e30f);
      const std::size_t rest = std::max(limit / size * size, whole);  // an unfinished page is attended
      std::fill(values.data() + rest, values.data() + last, most + 1);
      std::fill_n(values.begin(), std::min(sink_, last), -kInfinity);
      std::fill(values.data() + limit, values.data() + last, -kInfinity);
      tokloom::choose(values.data(), 1, last, k, chosen_of(head, row), 1, call.split);
    }
  });
}

void LayerPlan::run_clusters(const Step& step, const AttentionCall& call, Pass& pass) {
  const ClusterList& clusters = step.clusters;
  const std::size_t count = clusters.clusters, group = call.heads / call.kv_heads, rest = call.past - clusters.count;
  ScoreCall score = scoring(step.index, call, pass);
  const std::vector<std::int32_t> all(call.rows, static_cast<std::int32_t>(count));
  score.begin = 0, score.ends = all.data(), score.count = count;
  score.out = pass.scores.floats(call.heads * call.rows * count);
  score_slots(score);
  std::vector<std::uint8_t> kept(call.kv_heads * call.rows * count);
  std::vector<std::size_t> sizes(call.kv_heads * call.rows);
  call.split(sizes.size(), 1, call.threads, [&](std::size_t begin, std::size_t end) {
    std::vector<float> masses(count + kWidest);
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t head = i / call.rows, row = i % call.rows;
      const float* size = clusters.sizes + head * count;
      std::uint8_t* keep = kept.data() + i * count;
      for (std::size_t g = head * group; g < (head + 1) * group; ++g) {
        float sum;
        attention_kernels().masses(score.out + (g * call.rows + row) * count, count, masses.data(), &sum);
        float total = 0;
        for (std::size_t c = 0; c < count; ++c) total += masses[c] * size[c];
        const float least = clusters.threshold * total;
        for (std::size_t c = 0; c < count; ++c) keep[c] |= masses[c] >= least;
      }
      double listed = 0;
      for (std::size_t c = 0; c < count; ++c) listed += keep[c] ? double{size[c]} : 0;
      sizes[i] = static_cast<std::size_t>(listed);
    }
  });
  open(call, call.kv_heads, *std::max_element(sizes.begin(), sizes.end()) + rest, false);
  call.split(sizes.size(), 1, call.threads, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      const std::int64_t* label = clusters.label + i / call.rows * clusters.count;
      const std::uint8_t* keep = kept.data() + i * count;
      std::int64_t* to = chosen_of(i / call.rows, i % call.rows);
      std::int64_t* const stop = to + sizes[i];
      for (std::size_t key = 0; to < stop; ++key) {
        *to = static_cast<std::int64_t>(key);
        to += keep[label[key]];
      }
      std::iota(stop, stop + rest, static_cast<std::int64_t>(clusters.count));
    }
  });
}

// --- choices that go on

bool LayerPlan::goes_on(const AttentionCall& call, std::size_t row, const float* earlier) const {
  double product = 0, own = 0, other = 0;
  for (std::size_t head = 0; head < call.heads; ++head, earlier += call.head_dim) {
    const float* query = query_of(call, head, row);
    for (std::size_t k = 0; k < call.head_dim; ++k) {
      product += double{query[k]} * double{earlier[k]};
      own += double{query[k]} * double{query[k]};
      other += double{earlier[k]} * double{earlier[k]};
    }
  }
  return product / (std::max(std::sqrt(own), 1e-8) * std::max(std::sqrt(other), 1e-8)) >= double{earlier_.similarity};
}

void LayerPlan::go_on(const AttentionCall& call, bool again) {
  const std::size_t wide = call.heads * call.head_dim;
  // Where a row's choice comes from: a row of this pass, or `before`, the one that was there.
  constexpr std::size_t before = std::numeric_limits<std::size_t>::max();
  std::vector<std::size_t> sources(rows_);
  queries_.resize(rows_ * wide);
  std::vector<float> own(rows_ * wide);
  for (std::size_t row = 0; row < rows_; ++row)
    for (std::size_t head = 0; head < call.heads; ++head)
      std::copy_n(query_of(call, head, row), call.head_dim, own.data() + row * wide + head * call.head_dim);
  for (std::size_t row = 0; row < rows_; ++row) {
    sources[row] = row;
    if (rows_ == 1) {
      if (again) sources[row] = before;
    } else if (earlier_.parents[row] >= 0) {  // a row asks its parent's source first, as single steps would
      const std::size_t source = sources[static_cast<std::size_t>(earlier_.parents[row])];
      if (goes_on(call, row, source == before ? earlier_.query : own.data() + source * wide)) sources[row] = source;
    } else if (earlier_.query && goes_on(call, row, earlier_.query)) {
      sources[row] = before;
    }
    const std::size_t source = sources[row];
    std::copy_n(source == before ? earlier_.query : own.data() + source * wide, wide, queries_.data() + row * wide);
    for (std::size_t head = 0; head < index_heads_; ++head) {
      std::int64_t* to = chosen_of(head, row);
      if (source == before) {
        std::fill(to, to + (width_ - always_), -1);
        std::copy_n(earlier_.choice + (earlier_.heads > 1 ? head : 0) * earlier_.chosen, earlier_.chosen, to);
      } else if (source != row) {
        std::copy_n(chosen_of(head, source), width_ - always_, to);
      }
    }
  }
}

}  // namespace tokloom
