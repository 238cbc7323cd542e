// Masks of configurations: masks of their terminals' states, and what goes on beyond the terminals' ends.
#include <algorithm>
#include <cstring>

#include "grammar/parser.h"

namespace tokloom {

namespace {

constexpr uint32_t kMany = 64;  // nodes

}  // namespace

class MaskBuilder {
 public:
  MaskBuilder(Parser& parser, ConfigurationMask& out)
      : parser_(parser), index_(parser.mask_cache_->vocabulary), trie_(index_.trie()), out_(out) {}

  void build(const Configuration* at) {
    below(0, at);
    for (const Configuration::Item& item : at->specials) take(&item.state, &item.state + 1);
  }

 private:
  // Tokens below a node, at which the configuration is: those that stay inside a terminal, and beyond its ends
  // the same again.
  void below(uint32_t node, const Configuration* at) {
    for (const Configuration::Item& item : at->items) {
      const StateMask& inside = parser_.mask_cache_->mask(item.state, node);
      if (inside.wide) {
        if (std::find(out_.wide.begin(), out_.wide.end(), &inside) == out_.wide.end()) out_.wide.push_back(&inside);
      } else {
        take(inside.tokens.data(), inside.tokens.data() + inside.tokens.size());
      }
      if (inside.groups.empty()) continue;
      const Configuration* beyond = parser_.after(item.stack);
      if (beyond == nullptr) continue;
      for (const StateMask::Group& group : inside.groups) {
        if (!beyond->bytes.test(group.byte)) continue;
        take(group.tokens.data(), group.tokens.data() + group.tokens.size());
        if (group.nodes.empty()) continue;
        const Configuration* after = parser_.advance(beyond, group.byte);
        for (const uint32_t next : group.nodes) {
          // What lies below many nodes is worth remembering by state; where little of it is outside, a walk is shorter.
          if (trie_.node(next).skip > kMany && !inside.outside_known) {
            below(next, after);
          } else {
            walk(next, after, inside);
          }
        }
      }
    }
  }

  // The same step by step; only as far as tokens don't stay inside.
  void walk(uint32_t root, const Configuration* at, const StateMask& inside) {
    open_.push_back({root, at});
    while (!open_.empty()) {
      const auto [node, here] = open_.back();
      open_.pop_back();
      if (stays(here, node)) {
        take(trie_.keys_end(node), trie_.subtree_end(node));
        continue;
      }
      for (uint32_t i = index_.children_begin(node); i < index_.children_end(node); ++i) {
        if (!here->bytes.test(index_.child_byte(i))) continue;
        const uint32_t child = index_.child_node(i);
        take(trie_.keys_begin(child), trie_.keys_end(child));
        if (trie_.node(child).skip > 1 && inside.any_outside_below(trie_, child)) {
          open_.push_back({child, parser_.advance(here, index_.child_byte(i))});
        }
      }
    }
  }

  // One of the terminals takes all tokens below.
  bool stays(const Configuration* at, uint32_t node) {
    const size_t tried = std::min<size_t>(at->items.size(), 4);
    for (size_t i = 0; i < tried; ++i) {
      const RegexSet::Id state = at->items[i].state;
      if (parser_.mask_cache_->stays(state, parser_.regexes_.row(state), node)) return true;
    }
    return false;
  }

  void take(const uint32_t* begin, const uint32_t* end) {
    if (out_.words.empty() && out_.tokens.size() + static_cast<size_t>(end - begin) > index_.words()) {
      out_.words.assign(index_.words(), 0);
      for (const uint32_t token : out_.tokens) out_.words[token / 32] |= uint32_t{1} << token % 32;
      out_.tokens.clear();
    }
    if (out_.words.empty()) {
      out_.tokens.insert(out_.tokens.end(), begin, end);
    } else {
      for (; begin != end; ++begin) out_.words[*begin / 32] |= uint32_t{1} << *begin % 32;
    }
  }

  Parser& parser_;
  const VocabularyIndex& index_;
  const ByteTrie& trie_;
  ConfigurationMask& out_;
  std::vector<std::pair<uint32_t, const Configuration*>> open_;
};

void ConfigurationMask::write(uint32_t* out, size_t count) const {
  const uint32_t* first = !words.empty() ? words.data() : !wide.empty() ? wide[0]->words.data() : nullptr;
  if (first == nullptr) {
    std::memset(out, 0, count * sizeof(uint32_t));
  } else {
    std::memcpy(out, first, count * sizeof(uint32_t));
  }
  for (const StateMask* other : wide) {
    if (other->words.data() == first) continue;
    const uint32_t* bits = other->words.data();
    for (size_t i = 0; i < count; ++i) out[i] |= bits[i];
  }
  for (const uint32_t token : tokens) out[token / 32] |= uint32_t{1} << token % 32;
}

const ConfigurationMask& Parser::mask(const Configuration* at) {
  if (const ConfigurationMask* known = at->mask.load(std::memory_order_acquire)) return *known;
  const std::lock_guard<std::mutex> locked(mask_cache_->mutex);
  if (const ConfigurationMask* known = at->mask.load(std::memory_order_acquire)) return *known;
  auto made = std::make_unique<ConfigurationMask>();
  if (mask_cache_->vocabulary.writes_all()) {
    MaskBuilder(*this, *made).build(at);
  } else {
    add_finishing(at, *made);
  }
  charge(sizeof(ConfigurationMask) + 32 + 4 * (made->tokens.capacity() + made->words.capacity()));
  masks_.push_back(std::move(made));
  at->mask.store(masks_.back().get(), std::memory_order_release);
  return *masks_.back();
}

}  // namespace tokloom
