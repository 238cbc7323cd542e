// Whether tokens can finish an output: a question only where the vocabulary lacks single bytes.
#include <algorithm>
#include <unordered_map>

#include "grammar/parser.h"

namespace tokloom {

namespace {

constexpr size_t kMostTried = 256;  // configurations; beyond, the answer is taken to be yes

}  // namespace

void Parser::each_token(const Configuration* from, const std::function<void(uint32_t, const Configuration*)>& visit) {
  const VocabularyIndex& index = mask_cache_->vocabulary;
  const ByteTrie& trie = index.trie();
  std::vector<std::pair<uint32_t, const Configuration*>> open{{0, from}};
  while (!open.empty()) {
    const auto [node, at] = open.back();
    open.pop_back();
    for (uint32_t i = index.children_begin(node); i < index.children_end(node); ++i) {
      const Configuration* next = advance(at, index.child_byte(i));
      if (next == nullptr) continue;
      const uint32_t child = index.child_node(i);
      for (const uint32_t* token = trie.keys_begin(child); token != trie.keys_end(child); ++token) visit(*token, next);
      open.emplace_back(child, next);
    }
  }
  for (const Configuration::Item& item : from->specials) visit(item.state, after(item.stack));
}

bool Parser::finishes(const Configuration* from) {
  if (from->complete || from->fate == Configuration::Fate::finishes) return true;
  if (from->fate == Configuration::Fate::stuck) return false;
  std::vector<const Configuration*> found{from};
  std::unordered_map<const Configuration*, const Configuration*> before{{from, from}};
  for (size_t i = 0; i < found.size(); ++i) {
    const Configuration* at = found[i];
    bool good = i >= kMostTried;
    if (!good) {
      each_token(at, [&](uint32_t, const Configuration* next) {
        good = good || next->complete || next->fate == Configuration::Fate::finishes;
        if (next->fate == Configuration::Fate::unknown && before.emplace(next, at).second) found.push_back(next);
      });
    }
    if (good) {
      for (at->fate = Configuration::Fate::finishes; at != before[at];) {
        at = before[at];
        at->fate = Configuration::Fate::finishes;
      }
      return true;
    }
  }
  for (const Configuration* at : found) at->fate = Configuration::Fate::stuck;
  return false;
}

bool Parser::can_finish(const Configuration* at) {
  if (mask_cache_->vocabulary.writes_all()) return true;
  const std::lock_guard<std::mutex> locked(mask_cache_->mutex);
  return finishes(at);
}

void Parser::add_finishing(const Configuration* at, ConfigurationMask& out) {
  out.words.assign(mask_cache_->vocabulary.words(), 0);
  each_token(at, [&](uint32_t token, const Configuration* next) {
    if (finishes(next)) out.words[token / 32] |= uint32_t{1} << token % 32;
  });
}

}  // namespace tokloom
