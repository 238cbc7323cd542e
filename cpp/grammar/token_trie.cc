#include "grammar/token_trie.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace tokloom {

namespace {

constexpr size_t kMost = (size_t{1} << 31) - 1;  // node and key numbers must fit uint32 and a signed state

size_t common_prefix(std::string_view a, std::string_view b) {
  const size_t most = std::min(a.size(), b.size());
  return static_cast<size_t>(std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(most), b.begin()).first -
                             a.begin());
}

}  // namespace

ByteTrie::ByteTrie(std::vector<std::string> keys) : keys_(std::move(keys)) {
  size_t bytes = 0;
  for (const std::string& key : keys_) bytes += key.size();
  if (keys_.size() > kMost || bytes > kMost) {
    throw std::length_error("a byte trie holds at most 2^31 - 1 keys and bytes");
  }

  for (uint32_t id = 0; id < keys_.size(); ++id) {
    if (!keys_[id].empty()) order_.push_back(id);
  }
  // string_view compares as unsigned bytes; numbers break ties, so that equal keys keep their order.
  std::sort(order_.begin(), order_.end(), [this](uint32_t a, uint32_t b) {
    const int order = key(a).compare(key(b));
    return order != 0 ? order < 0 : a < b;
  });

  std::vector<uint32_t> path{0};  // nodes from the root to the last key
  nodes_.push_back({0, 0, 0});
  const auto close_to = [&](size_t depth) {
    for (; path.size() > depth; path.pop_back()) {
      nodes_[path.back()].skip = static_cast<uint32_t>(nodes_.size()) - path.back();
    }
  };
  std::string_view last;
  for (uint32_t i = 0; i < order_.size(); ++i) {
    const std::string_view text = key(order_[i]);
    const size_t shared = common_prefix(last, text);
    close_to(shared + 1);
    for (size_t at = shared; at < text.size(); ++at) {
      path.push_back(static_cast<uint32_t>(nodes_.size()));
      nodes_.push_back({0, i, static_cast<uint8_t>(text[at])});
    }
    last = text;
  }
  close_to(0);
  nodes_.push_back({0, static_cast<uint32_t>(order_.size()), 0});
  nodes_.shrink_to_fit();

  std::fill(std::begin(root_child_), std::end(root_child_), kNone);
  for (uint32_t n = 1; n < nodes(); n = end(n)) root_child_[nodes_[n].byte] = n;
}

uint32_t ByteTrie::child(uint32_t n, uint8_t byte) const {
  if (n == 0) return root_child_[byte];
  for (uint32_t at = n + 1, last = end(n); at < last; at = end(at)) {
    if (nodes_[at].byte == byte) return at;
    if (nodes_[at].byte > byte) break;
  }
  return kNone;
}

uint32_t ByteTrie::find(uint32_t n, std::string_view text) const {
  for (size_t i = 0; i < text.size() && n != kNone; ++i) n = child(n, static_cast<uint8_t>(text[i]));
  return n;
}

ChoiceSet::ChoiceSet(const ByteTrie& vocabulary, std::vector<std::string> choices)
    : vocabulary_(vocabulary), choices_(std::move(choices)), alive_(choices_.nodes(), 0) {
  // A token leads to a node with a higher number, so one pass backwards knows all successors.
  for (uint32_t state = states(); state-- > 0;) {
    alive_[state] = complete(state) || walk(state, [](uint32_t, uint32_t) { return false; });
  }
  // Forwards: what is reached from the start through states that are alive.
  std::vector<uint8_t> reached(states(), 0);
  reached[0] = 1;
  for (uint32_t state = 0; state < states(); ++state) {
    if (reached[state] == 0) continue;
    walk(state, [&](uint32_t, uint32_t next) {
      reached[next] = 1;
      return true;
    });
  }
  for (uint32_t state = 0; state < states(); ++state) {
    if (reached[state] == 0) {
      unspellable_.insert(unspellable_.end(), choices_.keys_begin(state), choices_.keys_end(state));
    }
  }
  std::sort(unspellable_.begin(), unspellable_.end());
}

// Calls visit(token node, state after it) for every node of the vocabulary's trie that holds tokens
// and leads from `state` to a state that is alive; stops when it returns false. Both tries are walked
// together, so the cost is bounded by the smaller of the two subtrees. Returns whether it stopped.
template <class Visit>
bool ChoiceSet::walk(uint32_t state, Visit&& visit) const {
  std::vector<std::pair<uint32_t, uint32_t>> open{{0, state}};
  while (!open.empty()) {
    const auto [token_node, choice_node] = open.back();
    open.pop_back();
    for (uint32_t next = choice_node + 1, last = choices_.end(choice_node); next < last; next = choices_.end(next)) {
      const uint32_t node = vocabulary_.child(token_node, choices_.node(next).byte);
      if (node == ByteTrie::kNone) continue;
      const bool holds_tokens = vocabulary_.keys_begin(node) != vocabulary_.keys_end(node);
      if (holds_tokens && alive_[next] != 0 && !visit(node, next)) return true;
      if (vocabulary_.node(node).skip > 1) open.emplace_back(node, next);
    }
  }
  return false;
}

void ChoiceSet::mask(uint32_t state, int32_t* out) const {
  std::fill(out, out + words(), 0);
  walk(state, [&](uint32_t node, uint32_t) {
    for (const uint32_t* token = vocabulary_.keys_begin(node); token != vocabulary_.keys_end(node); ++token) {
      out[*token / 32] |= static_cast<int32_t>(uint32_t{1} << (*token % 32));
    }
    return true;
  });
}

int64_t ChoiceSet::step(uint32_t state, int64_t token) const {
  if (token < 0 || token >= static_cast<int64_t>(vocabulary_.size())) return -1;
  const std::string_view text = vocabulary_.key(static_cast<size_t>(token));
  if (text.empty()) return -1;
  const uint32_t next = choices_.find(state, text);
  return next == ByteTrie::kNone || alive_[next] == 0 ? -1 : static_cast<int64_t>(next);
}

bool ChoiceSet::final(uint32_t state) const {
  return complete(state) && !walk(state, [](uint32_t, uint32_t) { return false; });
}

std::vector<uint32_t> ChoiceSet::forced(uint32_t state) const {
  std::vector<uint32_t> tokens;
  while (!complete(state)) {
    size_t allowed = 0;
    uint32_t token = 0;
    uint32_t after = state;
    walk(state, [&](uint32_t node, uint32_t next) {
      allowed += static_cast<size_t>(vocabulary_.keys_end(node) - vocabulary_.keys_begin(node));
      token = *vocabulary_.keys_begin(node);
      after = next;
      return allowed < 2;
    });
    if (allowed != 1) break;
    tokens.push_back(token);
    state = after;
  }
  return tokens;
}

}  // namespace tokloom
