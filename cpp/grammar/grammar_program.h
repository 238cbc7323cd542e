// A compiled grammar and the places in it that outputs are at.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/parser.h"

namespace tokloom {

// The mask cache that the grammars of a vocabulary share. When it has grown beyond the limit, a new one takes over;
// the old one goes with the last parser that uses it.
class MaskCachePool {
 public:
  // Keeps a reference to the trie.
  MaskCachePool(const ByteTrie& trie, size_t limit) : index_(trie), limit_(limit) {}

  const VocabularyIndex& vocabulary() const { return index_; }
  std::shared_ptr<MaskCache> mask_cache();
  size_t memory();

 private:
  VocabularyIndex index_;
  size_t limit_;
  std::mutex mutex_;
  std::shared_ptr<MaskCache> mask_cache_;
};

// Where one output is. Values: a step makes another.
struct GrammarState {
  std::shared_ptr<Parser> parser;
  const Configuration* at = nullptr;
  bool ended = false;  // by an end-of-sequence token
};

class GrammarProgram {
 public:
  // Keeps a reference to the pool. Throws GrammarProblem.
  GrammarProgram(MaskCachePool& pool, Form form, SpecialTokens specials, std::vector<uint32_t> ends, size_t limit);

  GrammarState start();
  // False, and `state` as it was, if the token may not come next.
  bool step(GrammarState& state, int64_t token) const;
  bool step_bytes(GrammarState& state, std::string_view bytes) const;
  // Writes words() words.
  void mask(const GrammarState& state, uint32_t* out) const;
  bool complete(const GrammarState& state) const { return state.ended || state.at->complete; }
  // No token may come, though the output is not complete.
  bool stuck(const GrammarState& state) const;

  const Form& form() const { return form_; }
  size_t words() const { return pool_.vocabulary().words(); }
  size_t tokens() const { return pool_.vocabulary().trie().size(); }
  size_t memory();

 private:
  std::shared_ptr<Parser> parser();

  MaskCachePool& pool_;
  Form form_;
  SpecialTokens specials_;
  std::vector<uint32_t> ends_;
  size_t limit_;
  std::mutex mutex_;
  std::shared_ptr<Parser> parser_;
};

}  // namespace tokloom
