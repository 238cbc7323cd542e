#include "grammar/parser.h"

#include <algorithm>
#include <utility>

#include "grammar/grammar_lower.h"
#include "grammar/grammar_problem.h"
#include "grammar/parser_closure.h"

namespace tokloom {

namespace {

constexpr uint32_t kBottom = 0;  // the frame beneath the start, and the stack that holds only it
constexpr size_t kMostItems = 50000;

}  // namespace

Parser::Parser(std::shared_ptr<MaskCache> mask_cache, const Form& form, const SpecialTokens& specials, size_t limit)
    : mask_cache_(std::move(mask_cache)), regexes_(mask_cache_->regexes), rules_(regexes_), limit_(limit) {
  const std::lock_guard<std::mutex> locked(mask_cache_->mutex);
  closure_ = std::make_unique<Closure>(*this);
  frame(RuleSet::kEmpty, kBottom);
  stack({kBottom});
  const RuleSet::Id start = lower(form, specials, regexes_, rules_);
  const auto refuse = [] {
    throw GrammarProblem("grammar", "no string of it can be written with this vocabulary",
                         "Some part that every string needs is impossible, or made of characters that no token has.");
  };
  if (start == RuleSet::kNothing) refuse();
  closure_->clear();
  closure_->add(start, {kBottom});
  closure_->complete = rules_.node(start).nullable;
  start_ = closure_->run();
  if (!mask_cache_->vocabulary.writes_all() && !finishes(start_)) refuse();
}

Parser::~Parser() = default;

void Parser::charge(size_t bytes) {
  const size_t used = memory_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  if (used > limit_ || mask_cache_->full()) full_.store(true, std::memory_order_relaxed);
  if (used > 4 * limit_) {
    throw GrammarProblem("grammar", "matching it takes more than " + std::to_string(4 * limit_ >> 20) + " MB",
                         "It is too ambiguous: write it so that there are fewer ways to read the same output.");
  }
}

uint32_t Parser::frame(RuleSet::Id rest, uint32_t below) {
  const uint64_t hash = mix(mix(7, rest), below);
  const uint32_t known = frame_index_.find(
      hash, [&](uint32_t number) { return frames_[number].rest == rest && frames_[number].below == below; });
  if (known != HashIndex::kNone) return known;
  frames_.push_back({rest, below});
  const auto number = static_cast<uint32_t>(frames_.size() - 1);
  frame_index_.insert(hash, number);
  charge(sizeof(Frame) + 48);
  return number;
}

uint32_t Parser::stack(const std::vector<uint32_t>& frames) {
  uint64_t hash = frames.size();
  for (const uint32_t number : frames) hash = mix(hash, number);
  const uint32_t known = stack_index_.find(hash, [&](uint32_t number) {
    const Stack& other = stacks_[number];
    return other.count == frames.size() &&
           std::equal(frames.begin(), frames.end(), frame_lists_.begin() + other.first);
  });
  if (known != HashIndex::kNone) return known;
  stacks_.push_back({static_cast<uint32_t>(frame_lists_.size()), static_cast<uint32_t>(frames.size()), nullptr});
  frame_lists_.insert(frame_lists_.end(), frames.begin(), frames.end());
  const auto number = static_cast<uint32_t>(stacks_.size() - 1);
  stack_index_.insert(hash, number);
  charge(sizeof(Stack) + 48 + frames.size() * sizeof(uint32_t));
  return number;
}

uint32_t Parser::unite(uint32_t a, uint32_t b) {
  if (a == b) return a;
  std::vector<uint32_t> united;
  const auto first = frame_lists_.begin() + stacks_[a].first;
  const auto second = frame_lists_.begin() + stacks_[b].first;
  std::set_union(first, first + stacks_[a].count, second, second + stacks_[b].count, std::back_inserter(united));
  return stack(united);
}

// Items with the same state become one, with what follows either.
void Parser::unite(std::vector<Configuration::Item>& items) {
  std::sort(items.begin(), items.end());
  size_t kept = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    if (kept > 0 && items[kept - 1].state == items[i].state) {
      items[kept - 1].stack = unite(items[kept - 1].stack, items[i].stack);
    } else {
      items[kept++] = items[i];
    }
  }
  items.resize(kept);
}

const Configuration* Parser::configuration(std::vector<Configuration::Item> items,
                                           std::vector<Configuration::Item> specials, bool complete) {
  unite(items);
  unite(specials);
  if (items.empty() && specials.empty() && !complete) return nullptr;
  uint64_t hash = mix(complete ? 1 : 0, specials.size());
  for (const auto& item : items) hash = mix(hash, uint64_t{item.state} << 32 | item.stack);
  for (const auto& item : specials) hash = mix(hash, uint64_t{item.state} << 32 | item.stack);
  const uint32_t known = configuration_index_.find(hash, [&](uint32_t number) {
    const Configuration& other = *configurations_[number];
    return other.complete == complete && other.items == items && other.specials == specials;
  });
  if (known != HashIndex::kNone) return configurations_[known].get();
  if (items.size() > kMostItems) {
    throw GrammarProblem("grammar", "there are more than " + std::to_string(kMostItems) + " ways to read the output so far",
                         "It is too ambiguous: write it so that there are fewer ways to read the same output.");
  }
  auto made = std::make_unique<Configuration>();
  made->items = std::move(items);
  made->specials = std::move(specials);
  made->complete = complete;
  for (const auto& item : made->items) made->bytes |= regexes_.row(item.state).live;
  const size_t live = made->bytes.count();
  made->next = std::make_unique<std::atomic<const Configuration*>[]>(live);
  for (size_t i = 0; i < live; ++i) made->next[i].store(nullptr, std::memory_order_relaxed);
  charge(sizeof(Configuration) + 64 + live * sizeof(void*) +
         (made->items.size() + made->specials.size()) * sizeof(Configuration::Item));
  configurations_.push_back(std::move(made));
  configuration_index_.insert(hash, static_cast<uint32_t>(configurations_.size() - 1));
  return configurations_.back().get();
}

const Configuration* Parser::after(uint32_t number) {
  if (stacks_[number].after != nullptr) return stacks_[number].after;
  closure_->clear();
  closure_->pop(number);
  const Configuration* made = closure_->run();
  stacks_[number].after = made;
  return made;
}

const Configuration* Parser::advance(const Configuration* from, uint8_t byte) {
  if (!from->bytes.test(byte)) return nullptr;
  std::atomic<const Configuration*>& slot = from->next[from->bytes.rank(byte)];
  if (const Configuration* known = slot.load(std::memory_order_acquire)) return known;
  std::vector<Configuration::Item> items;
  uint32_t ended = UINT32_MAX;  // what follows the terminals that may end here
  for (const Configuration::Item& item : from->items) {
    const RegexSet::Id next = regexes_.row(item.state).next[byte];
    if (next == RegexSet::kNothing) continue;
    if (regexes_.nullable(next)) ended = ended == UINT32_MAX ? item.stack : unite(ended, item.stack);
    if (next != RegexSet::kEmpty && !regexes_.row(next).live.empty()) items.push_back({next, item.stack});
  }
  const Configuration* made;
  if (ended == UINT32_MAX) {
    made = configuration(std::move(items), {}, false);
  } else {
    made = after(ended);
    if (made == nullptr) {
      made = configuration(std::move(items), {}, false);
    } else if (!items.empty()) {
      items.insert(items.end(), made->items.begin(), made->items.end());
      made = configuration(std::move(items), made->specials, made->complete);
    }
  }
  slot.store(made, std::memory_order_release);
  return made;
}

const Configuration* Parser::step(const Configuration* from, std::string_view bytes) {
  size_t at = 0;
  for (; at < bytes.size(); ++at) {
    const auto byte = static_cast<uint8_t>(bytes[at]);
    if (!from->bytes.test(byte)) return nullptr;
    const Configuration* next = from->after(byte).load(std::memory_order_acquire);
    if (next == nullptr) break;
    from = next;
  }
  if (at == bytes.size()) return from;
  const std::lock_guard<std::mutex> locked(mask_cache_->mutex);
  for (; at < bytes.size() && from != nullptr; ++at) from = advance(from, static_cast<uint8_t>(bytes[at]));
  return from;
}

const Configuration* Parser::step_special(const Configuration* from, uint32_t token) {
  const auto place = std::find_if(from->specials.begin(), from->specials.end(),
                                  [&](const Configuration::Item& item) { return item.state == token; });
  if (place == from->specials.end()) return nullptr;
  const std::lock_guard<std::mutex> locked(mask_cache_->mutex);
  return after(place->stack);
}

std::string Parser::forced(const Configuration* at, size_t most) {
  std::string bytes;
  while (bytes.size() < most && !at->complete && at->specials.empty() && at->bytes.count() == 1) {
    const char byte = static_cast<char>(at->bytes.first());
    bytes.push_back(byte);
    at = step(at, std::string_view(&byte, 1));
  }
  return bytes;
}

}  // namespace tokloom
