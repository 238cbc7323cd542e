#include "grammar/grammar_program.h"

#include <algorithm>
#include <utility>

namespace tokloom {

std::shared_ptr<Lexer> LexerPool::lexer() {
  const std::lock_guard<std::mutex> locked(mutex_);
  if (lexer_) {
    const std::lock_guard<std::mutex> still(lexer_->mutex);
    if (lexer_->full()) lexer_.reset();
  }
  if (!lexer_) lexer_ = std::make_shared<Lexer>(index_, limit_);
  return lexer_;
}

size_t LexerPool::memory() {
  const std::lock_guard<std::mutex> locked(mutex_);
  if (!lexer_) return 0;
  const std::lock_guard<std::mutex> still(lexer_->mutex);
  return lexer_->memory();
}

GrammarProgram::GrammarProgram(LexerPool& pool, Form form, SpecialTokens specials, std::vector<uint32_t> ends,
                               size_t limit)
    : pool_(pool), form_(std::move(form)), specials_(std::move(specials)), ends_(std::move(ends)), limit_(limit) {
  parser();
}

std::shared_ptr<Parser> GrammarProgram::parser() {
  const std::lock_guard<std::mutex> locked(mutex_);
  if (!parser_ || parser_->full()) parser_ = std::make_shared<Parser>(pool_.lexer(), form_, specials_, limit_);
  return parser_;
}

GrammarPlace GrammarProgram::start() {
  GrammarPlace place{parser(), nullptr, false};
  place.at = place.parser->start();
  return place;
}

bool GrammarProgram::step(GrammarPlace& place, int64_t token) const {
  if (place.ended || token < 0 || token >= static_cast<int64_t>(tokens())) return false;
  const auto id = static_cast<uint32_t>(token);
  if (const Configuration* next = place.parser->step_special(place.at, id)) {
    if (!place.parser->can_finish(next)) return false;
    place.at = next;
    return true;
  }
  if (place.at->complete && std::find(ends_.begin(), ends_.end(), id) != ends_.end()) {
    place.ended = true;
    return true;
  }
  const std::string_view bytes = pool_.vocabulary().trie().key(id);
  if (bytes.empty()) return false;
  const Configuration* next = place.parser->step(place.at, bytes);
  if (next == nullptr || !place.parser->can_finish(next)) return false;
  place.at = next;
  return true;
}

bool GrammarProgram::step_bytes(GrammarPlace& place, std::string_view bytes) const {
  if (place.ended) return false;
  const Configuration* next = place.parser->step(place.at, bytes);
  if (next == nullptr) return false;
  place.at = next;
  return true;
}

void GrammarProgram::mask(const GrammarPlace& place, uint32_t* out) const {
  if (place.ended) {
    std::fill(out, out + words(), 0u);
    return;
  }
  place.parser->mask(place.at).write(out, words());
  if (!place.at->complete) return;
  for (const uint32_t token : ends_) out[token / 32] |= uint32_t{1} << token % 32;
}

bool GrammarProgram::stuck(const GrammarPlace& place) const {
  if (place.ended || place.at->complete) return false;
  const ConfigurationMask& mask = place.parser->mask(place.at);
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
