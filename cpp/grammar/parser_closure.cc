#include "grammar/parser_closure.h"

#include <algorithm>

namespace tokloom {

namespace {

constexpr uint32_t kMostCopied = 8;

}  // namespace

void Parser::Closure::clear() {
  waiting_.clear();
  order_ = {};
  items_.clear();
  specials_.clear();
  complete = false;
  ++round_;
  marked_ = 0;
}

bool Parser::Closure::mark(RuleSet::Id expression, uint32_t frame) {
  if (2 * (marked_ + 1) > marks_.size()) {
    const std::vector<Mark> old = std::move(marks_);
    marks_.assign(std::max<size_t>(256, old.size() * 2), {0, 0, 0});
    marked_ = 0;
    for (const Mark& entry : old) {
      if (entry.time == round_) mark(entry.expression, entry.frame);
    }
  }
  const size_t most = marks_.size() - 1;
  for (size_t at = mix(mix(3, expression), frame) >> 20 & most;; at = (at + 1) & most) {
    Mark& entry = marks_[at];
    if (entry.time != round_) {
      entry = {expression, frame, round_};
      ++marked_;
      return true;
    }
    if (entry.expression == expression && entry.frame == frame) return false;
  }
}

std::vector<uint32_t> Parser::Closure::frames_of(uint32_t stack) const {
  const auto first = parser_.frame_lists_.begin() + parser_.stacks_[stack].first;
  return {first, first + parser_.stacks_[stack].count};
}

void Parser::Closure::add(RuleSet::Id expression, const std::vector<uint32_t>& frames) {
  if (parser_.rules_.node(expression).dead || expression == RuleSet::kEmpty) return;
  const auto [place, fresh] = waiting_.try_emplace(expression);
  if (fresh) order_.emplace(parser_.rules_.height(expression), expression);
  for (const uint32_t number : frames) {
    if (mark(expression, number)) place->second.push_back(number);
  }
}

void Parser::Closure::pop(uint32_t stack) {
  std::vector<uint32_t> open{stack};
  ++time_;
  popped_.resize(parser_.stacks_.size(), 0);
  while (!open.empty()) {
    const std::vector<uint32_t> frames = frames_of(open.back());
    open.pop_back();
    for (const uint32_t number : frames) {
      if (number == 0) {
        complete = true;
        continue;
      }
      const Frame frame = parser_.frames_[number];
      const RuleSet::Id rest = parser_.rules_.settled(frame.rest);
      // A large set is referred to, not copied: ambiguous grammars would copy it again at every step.
      if (parser_.stacks_[frame.below].count <= kMostCopied) {
        add(rest, frames_of(frame.below));
      } else {
        add(rest, {parser_.frame(RuleSet::kEmpty, frame.below)});
      }
      if (!parser_.rules_.node(rest).nullable) continue;
      if (popped_[frame.below] == time_) continue;
      popped_[frame.below] = time_;
      open.push_back(frame.below);
    }
  }
}

void Parser::Closure::enter(RuleSet::Id expression, std::vector<uint32_t> frames) {
  RuleSet& rules = parser_.rules_;
  const RuleSet::Node node = rules.node(expression);
  const auto part_with = [&](RuleSet::Id part, RuleSet::Id rest, uint32_t below) {
    add(part, {parser_.frame(rest, below)});
  };
  switch (node.kind) {
    case RuleSet::Kind::terminal:
      items_.push_back({node.a, parser_.stack(frames)});
      break;
    case RuleSet::Kind::special:
      specials_.push_back({node.a, parser_.stack(frames)});
      break;
    case RuleSet::Kind::concat:
      part_with(node.a, node.b, parser_.stack(frames));
      if (rules.node(node.a).nullable) add(node.b, frames);
      break;
    case RuleSet::Kind::either:
      for (uint32_t i = 0; i < node.b; ++i) add(rules.children(expression)[i], frames);
      break;
    case RuleSet::Kind::repeat: {
      const uint32_t least = node.least == 0 ? 0 : node.least - 1;
      const uint32_t most = node.most == RuleSet::kUnbounded ? node.most : node.most - 1;
      if (most == 0) {
        add(node.a, frames);
      } else {
        part_with(node.a, rules.repeat(node.a, least, most), parser_.stack(frames));
      }
      break;
    }
    case RuleSet::Kind::ref:
      add(rules.rule(node.a).body, frames);
      break;
    case RuleSet::Kind::solid:
      add(node.a, frames);
      break;
    case RuleSet::Kind::choose: {
      const uint32_t below = parser_.stack(frames);
      std::vector<RuleSet::Id> skipped;
      rules.each_choice(expression, [&](RuleSet::Id item, RuleSet::Id rest) {
        part_with(item, rest, below);
        if (rules.node(item).nullable) skipped.push_back(rest);
      });
      for (const RuleSet::Id rest : skipped) add(rules.settled(rest), frames);
      break;
    }
    case RuleSet::Kind::rest: {
      const RuleSet::Id choose = rules.choose_after(expression);
      if (rules.node(choose).dead) break;
      const RuleSet::Id separator = rules.separator(expression);
      part_with(separator, choose, parser_.stack(frames));
      if (rules.node(separator).nullable) add(choose, frames);
      break;
    }
    case RuleSet::Kind::nothing:
    case RuleSet::Kind::empty:
    case RuleSet::Kind::after:
      break;
  }
}

const Configuration* Parser::Closure::run() {
  while (!order_.empty()) {
    const RuleSet::Id expression = order_.top().second;
    order_.pop();
    std::vector<uint32_t> frames = std::move(waiting_[expression]);
    std::sort(frames.begin(), frames.end());
    enter(expression, std::move(frames));
  }
  return parser_.configuration(std::move(items_), std::move(specials_), complete);
}

}  // namespace tokloom
