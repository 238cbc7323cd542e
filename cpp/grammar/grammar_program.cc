#include "grammar/grammar_program.h"

#include <algorithm>
#include <utility>

namespace tokloom {

std::shared_ptr<MaskCache> MaskCachePool::mask_cache() {
  const std::lock_guard<std::mutex> locked(mutex_);
  if (mask_cache_) {
    const std::lock_guard<std::mutex> still(mask_cache_->mutex);
    if (mask_cache_->full()) mask_cache_.reset();
  }
  if (!mask_cache_) mask_cache_ = std::make_shared<MaskCache>(index_, limit_);
  return mask_cache_;
}

size_t MaskCachePool::memory() {
  const std::lock_guard<std::mutex> locked(mutex_);
  if (!mask_cache_) return 0;
  const std::lock_guard<std::mutex> still(mask_cache_->mutex);
  return mask_cache_->memory();
}

GrammarProgram::GrammarProgram(MaskCachePool& pool, Form form, SpecialTokens specials, std::vector<uint32_t> ends,
                               size_t limit)
    : pool_(pool), form_(std::move(form)), specials_(std::move(specials)), ends_(std::move(ends)), limit_(limit) {
  parser();
}

std::shared_ptr<Parser> GrammarProgram::parser() {
  const std::lock_guard<std::mutex> locked(mutex_);
  if (!parser_ || parser_->full()) parser_ = std::make_shared<Parser>(pool_.mask_cache(), form_, specials_, limit_);
  return parser_;
}

GrammarState GrammarProgram::start() {
  GrammarState state{parser(), nullptr, false};
  state.at = state.parser->start();
  return state;
}

bool GrammarProgram::step(GrammarState& state, int64_t token) const {
  if (state.ended || token < 0 || token >= static_cast<int64_t>(tokens())) return false;
  const auto id = static_cast<uint32_t>(token);
  if (const Configuration* next = state.parser->step_special(state.at, id)) {
    if (!state.parser->can_finish(next)) return false;
    state.at = next;
    return true;
  }
  if (state.at->complete && std::find(ends_.begin(), ends_.end(), id) != ends_.end()) {
    state.ended = true;
    return true;
  }
  const std::string_view bytes = pool_.vocabulary().trie().key(id);
  if (bytes.empty()) return false;
  const Configuration* next = state.parser->step(state.at, bytes);
  if (next == nullptr || !state.parser->can_finish(next)) return false;
  state.at = next;
  return true;
}

bool GrammarProgram::step_bytes(GrammarState& state, std::string_view bytes) const {
  if (state.ended) return false;
  const Configuration* next = state.parser->step(state.at, bytes);
  if (next == nullptr) return false;
  state.at = next;
  return true;
}

void GrammarProgram::mask(const GrammarState& state, uint32_t* out) const {
  if (state.ended) {
    std::fill(out, out + words(), 0u);
    return;
  }
  state.parser->mask(state.at).write(out, words());
  if (!state.at->complete) return;
  for (const uint32_t token : ends_) out[token / 32] |= uint32_t{1} << token % 32;
}

bool GrammarProgram::stuck(const GrammarState& state) const {
  if (state.ended || state.at->complete) return false;
  const ConfigurationMask& mask = state.parser->mask(state.at);
  const auto any = [](const std::vector<uint32_t>& words) {
    return std::any_of(words.begin(), words.end(), [](uint32_t word) { return word != 0; });
  };
  return mask.tokens.empty() && !any(mask.words) &&
         std::none_of(mask.wide.begin(), mask.wide.end(), [&](const StateMask* wide) { return any(wide->words); });
}

size_t GrammarProgram::memory() {
  const std::lock_guard<std::mutex> locked(mutex_);
  return parser_ ? parser_->memory() : 0;
}

}  // namespace tokloom
