#include "grammar/state_mask.h"

#include <algorithm>

namespace tokloom {

namespace {

constexpr size_t kManyBeyond = 2048;  // nodes beyond ends, from which on it pays to know what stays inside anyway

}  // namespace

size_t StateMask::memory() const {
  size_t bytes = sizeof(StateMask) + 4 * (words.capacity() + tokens.capacity() + beyond.capacity() + outside.capacity());
  for (const Group& group : groups) bytes += sizeof(Group) + 4 * (group.tokens.capacity() + group.nodes.capacity());
  return bytes;
}

// Walks the trie with one state; where the state's mask differs little from one that is known, only the differences.
class MaskCache::Walk {
 public:
  Walk(MaskCache& mask_cache, StateMask& out)
      : mask_cache_(mask_cache), index_(mask_cache.vocabulary), trie_(index_.trie()), regexes_(mask_cache.regexes), out_(out) {}

  void run(RegexSet::Id state, uint32_t start) {
    start_ = start;
    below(start, state);
    finish();
  }

  // `out` is a copy of the mask of `other`, whose language holds that of `state`.
  void run_beside(RegexSet::Id state, RegexSet::Id other, const StateMask& known) {
    struct Level {
      uint32_t end;
      const RegexSet::Row* mine;
      const RegexSet::Row* theirs;
      RegexSet::Id my_state;
      bool beyond;
    };
    const uint32_t last = trie_.nodes();
    std::vector<Level> levels{{last, &regexes_.row(state), &regexes_.row(other), state, false}};
    auto kept = known.beyond.begin();
    const auto keep_to = [&](uint32_t node) {
      const auto end = std::lower_bound(kept, known.beyond.end(), node);
      out_.beyond.insert(out_.beyond.end(), kept, end);
      kept = end;
    };
    const auto drop_to = [&](uint32_t node) {
      while (kept != known.beyond.end() && *kept < node) ++kept;
    };
    for (uint32_t n = 1; n < last;) {
      while (n >= levels.back().end) levels.pop_back();
      const Level& level = levels.back();
      const ByteTrie::Node& node = trie_.node(n);
      const RegexSet::Id next = level.mine->next[node.byte];
      const RegexSet::Id beside = level.theirs->next[node.byte];
      if (level.beyond) out_.beyond.push_back(n);
      if (next == RegexSet::kNothing) {
        if (beside != RegexSet::kNothing) clear(n);
        n += node.skip;
        continue;
      }
      if (node.skip == 1) {
        ++n;
        continue;
      }
      const RegexSet::Row& row = next == level.my_state ? *level.mine : regexes_.row(next);
      if (mask_cache_.stays(next, row, n)) {
        n += node.skip;
        continue;
      }
      if (!row.loops_end && mask_cache_.stays_a_while(row, n)) {
        split(n, row.loops_slack, [](const uint32_t*, const uint32_t*) {}, [&](uint32_t outside) { clear(outside); });
        n += node.skip;
        continue;
      }
      if (next == beside || same_below(next, beside, n)) {
        if (row.nullable == regexes_.nullable(beside)) {
          drop_to(n + 1);
          keep_to(n + node.skip);
          n += node.skip;
          continue;
        }
      }
      levels.push_back({n + node.skip, &row, &regexes_.row(beside), next, row.nullable});
      ++n;
    }
    finish();
  }

 private:
  bool jumps(uint32_t node, const RegexSet::Row& row) const {
    return row.narrow && index_.children_end(node) - index_.children_begin(node) > 8;
  }

  // All below a node, at which the state is, in preorder.
  void below(uint32_t node, RegexSet::Id state) {
    const RegexSet::Row& row = regexes_.row(state);
    if (!jumps(node, row)) {
      scan(node, state);
      return;
    }
    const auto enter = [&](uint32_t child, RegexSet::Id next) {
      take(trie_.keys_begin(child), trie_.keys_end(child));
      if (trie_.node(child).skip > 1) below(child, next);
    };
    if (row.nullable && node != start_) {
      for (uint32_t i = index_.children_begin(node); i < index_.children_end(node); ++i) {
        out_.beyond.push_back(index_.child_node(i));
        if (row.live.test(index_.child_byte(i))) enter(index_.child_node(i), row.next[index_.child_byte(i)]);
      }
    } else {
      row.live.each([&](uint8_t byte) {
        const uint32_t child = index_.child(node, byte);
        if (child != ByteTrie::kNone) enter(child, row.next[byte]);
      });
    }
  }

  // The same node by node; where few of many children go on, `below` again. The recursion is no deeper than a token is long.
  void scan(uint32_t root, RegexSet::Id state) {
    struct Level {
      uint32_t end;
      RegexSet::Id state;
      const RegexSet::Row* row;
      bool beyond;
    };
    std::vector<Level> levels{{trie_.end(root), state, &regexes_.row(state), regexes_.nullable(state) && root != start_}};
    const uint32_t last = trie_.end(root);
    for (uint32_t n = root + 1; n < last;) {
      while (n >= levels.back().end) levels.pop_back();
      const Level& level = levels.back();
      const ByteTrie::Node& node = trie_.node(n);
      const RegexSet::Id next = level.row->next[node.byte];
      if (level.beyond) out_.beyond.push_back(n);
      if (next == RegexSet::kNothing) {
        n += node.skip;
        continue;
      }
      if (node.skip == 1) {
        take(trie_.keys_begin(n), trie_.keys_end(n));
        ++n;
        continue;
      }
      const RegexSet::Row& row = next == level.state ? *level.row : regexes_.row(next);
      if (mask_cache_.stays(next, row, n)) {
        take(trie_.keys_begin(n), trie_.subtree_end(n));
        n += node.skip;
        continue;
      }
      take(trie_.keys_begin(n), trie_.keys_end(n));
      if (!row.loops_end && mask_cache_.stays_a_while(row, n)) {
        split(n, row.loops_slack, [&](const uint32_t* begin, const uint32_t* end) { take(begin, end); }, [](uint32_t) {});
        n += node.skip;
        continue;
      }
      if (jumps(n, row)) {
        below(n, next);
        n += node.skip;
        continue;
      }
      levels.push_back({n + node.skip, next, &row, row.nullable});
      ++n;
    }
  }

  // Tokens below a node of at most `slack` characters from it, and the subtrees of longer ones.
  template <class Inside, class Outside>
  void split(uint32_t root, uint32_t slack, Inside&& inside, Outside&& outside) const {
    const uint32_t deepest = index_.depth_in_characters(root) + slack;
    for (uint32_t n = root + 1; n < trie_.end(root);) {
      const uint32_t depth = index_.depth_in_characters(n);
      if (depth > deepest) {
        outside(n);
        n = trie_.end(n);
      } else if (depth + index_.height_in_characters(n) <= deepest) {
        inside(trie_.keys_begin(n), trie_.subtree_end(n));
        n = trie_.end(n);
      } else {
        inside(trie_.keys_begin(n), trie_.keys_end(n));
        ++n;
      }
    }
  }

  bool same_below(RegexSet::Id mine, RegexSet::Id theirs, uint32_t node) {
    return regexes_.slack(mine) >= index_.height(node) && regexes_.uncounted(mine) == theirs;
  }

  void take(const uint32_t* begin, const uint32_t* end) {
    if (!out_.wide && out_.tokens.size() + static_cast<size_t>(end - begin) > index_.words()) {
      out_.wide = true;
      out_.words.assign(index_.words(), 0);
      for (const uint32_t token : out_.tokens) out_.words[token / 32] |= uint32_t{1} << token % 32;
      out_.tokens.clear();
      out_.tokens.shrink_to_fit();
    }
    if (!out_.wide) {
      out_.tokens.insert(out_.tokens.end(), begin, end);
    } else {
      for (; begin != end; ++begin) out_.words[*begin / 32] |= uint32_t{1} << *begin % 32;
    }
  }

  void clear(uint32_t node) {
    for (const uint32_t* token = trie_.keys_begin(node); token != trie_.subtree_end(node); ++token) {
      out_.words[*token / 32] &= ~(uint32_t{1} << *token % 32);
    }
  }

  void finish() {
    if (out_.wide && out_.beyond.size() > kManyBeyond) find_outside();
    uint32_t counts[256] = {};
    for (const uint32_t node : out_.beyond) ++counts[trie_.node(node).byte];
    uint32_t place[256] = {};
    for (unsigned byte = 0; byte < 256; ++byte) {
      if (counts[byte] == 0) continue;
      out_.group_bytes.set(byte);
      place[byte] = static_cast<uint32_t>(out_.groups.size());
      out_.groups.push_back({static_cast<uint8_t>(byte), {}, {}});
    }
    for (const uint32_t node : out_.beyond) {
      StateMask::Group& group = out_.groups[place[trie_.node(node).byte]];
      for (const uint32_t* token = trie_.keys_begin(node); token != trie_.keys_end(node); ++token) {
        if (!out_.outside_known || !inside(*token)) group.tokens.push_back(*token);
      }
      if (trie_.node(node).skip > 1 && out_.any_outside_below(trie_, node)) group.nodes.push_back(node);
    }
    if (!out_.wide || start_ != 0) {
      out_.beyond.clear();
      out_.beyond.shrink_to_fit();
    }
  }

  bool inside(uint32_t token) const { return (out_.words[token / 32] >> token % 32 & 1) != 0; }

  void find_outside() {
    out_.outside_known = true;
    const std::vector<uint32_t>& sorted = trie_.sorted_keys();
    for (uint32_t place = trie_.first_place(start_); place < trie_.subtree_last_place(start_); ++place) {
      if (!inside(sorted[place])) out_.outside.push_back(place);
    }
  }

  uint32_t start_ = 0;  // the node below which all this is
  MaskCache& mask_cache_;
  const VocabularyIndex& index_;
  const ByteTrie& trie_;
  RegexSet& regexes_;
  StateMask& out_;
};

// All ways to finish the character that has begun lead to `home`.
bool MaskCache::returns(RegexSet::Id home, RegexSet::Id state, uint8_t utf8) {
  if (utf8 == 0) return state == home;
  const RegexSet::Row& row = regexes.row(state);
  RegexSet::Id last = RegexSet::kNothing;
  uint8_t last_utf8 = 0;
  bool good = true;
  vocabulary.members(VocabularyIndex::kContinuation).each([&](uint8_t byte) {
    const uint8_t next = Utf8::next(utf8, byte);
    if (!good || next == Utf8::kBad || (row.next[byte] == last && next == last_utf8)) return;
    last = row.next[byte];
    last_utf8 = next;
    good = last != RegexSet::kNothing && returns(home, last, next);
  });
  return good;
}

// Kinds of bytes that lead from the state to itself, counts aside, and characters that do so as a whole.
void MaskCache::find_loops(RegexSet::Id state, const RegexSet::Row& row) {
  row.loops_known = true;
  const RegexSet::Id home = regexes.unbounded_head(state, row.loops_slack);
  const RegexSet::Row& base = regexes.row(home);
  row.loops_end = base.nullable;
  ByteSet set;
  base.live.each([&](uint8_t byte) {
    if (base.next[byte] == home) set.set(byte);
  });
  if (!set.empty()) row.loops = vocabulary.kinds_within(set);
  row.loops_as_characters = row.loops & ~VocabularyIndex::kBeyondAscii;
  for (int kind = 0; kind < VocabularyIndex::kKinds; ++kind) {
    const ByteSet& leads = vocabulary.members(kind);
    if (leads.empty() || leads.first() < 0xC0 || (row.loops >> kind & 1) != 0) continue;
    bool good = true;
    leads.each([&](uint8_t byte) {
      const uint8_t utf8 = Utf8::next(0, byte);
      good = good && (utf8 == Utf8::kBad || (base.live.test(byte) && returns(home, base.next[byte], utf8)));
    });
    if (good) row.loops_as_characters |= uint64_t{1} << kind | uint64_t{1} << VocabularyIndex::kContinuation;
  }
}

const StateMask& MaskCache::mask(RegexSet::Id state, uint32_t node) {
  const uint64_t key = uint64_t{state} << 32 | node;
  if (const auto known = masks_.find(key); known != masks_.end()) return *known->second;
  // Counts that no token can reach make no difference.
  const RegexSet::Id clamped = regexes.clamped(state, vocabulary.longest());
  if (clamped != state) {
    const StateMask& same = mask(clamped, node);
    masks_.emplace(key, &same);
    return same;
  }
  auto made = std::make_unique<StateMask>();
  Walk walk(*this, *made);
  const StateMask* beside = nullptr;
  RegexSet::Id relaxed = state;
  if (node == 0 && !regexes.row(state).narrow) {
    relaxed = regexes.relaxed(state);
    if (relaxed != state) beside = &mask(relaxed);
  }
  if (beside != nullptr && beside->wide) {
    made->wide = true;
    made->words = beside->words;
    walk.run_beside(state, relaxed, *beside);
  } else {
    walk.run(state, node);
  }
  memory_ += made->memory() + 64;
  made_.push_back(std::move(made));
  masks_.emplace(key, made_.back().get());
  return *made_.back();
}

}  // namespace tokloom
